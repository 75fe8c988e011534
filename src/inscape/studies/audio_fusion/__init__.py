"""Audio-fusion: can a frozen language model be taught to hear, and is it really listening?"""
