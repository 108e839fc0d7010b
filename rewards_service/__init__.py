"""Four measured rewards, their deployment as independent actors and the client that calls them."""
