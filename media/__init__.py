"""Reading and writing video and sound with PyAV, and the Parquet table of clips."""
