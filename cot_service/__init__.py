"""From a video to the four-part plan that conditions generation."""
