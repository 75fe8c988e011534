"""How much of a prompt survives compression into a frozen language model?"""
