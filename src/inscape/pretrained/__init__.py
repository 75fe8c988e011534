"""The only place that loads foreign weights; and their tiny random stand-ins, and what needs no weights at all."""
