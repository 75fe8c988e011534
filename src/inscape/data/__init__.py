"""What the studies learn from: generated scenes, text files, pairs."""
