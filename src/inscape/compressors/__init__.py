"""Prompts made smaller for a frozen language model, each way behind one interface, with the bits that it really costs.

    compressor = compressor.fit(lm, sequences, seed=0)      # ids of training prompts
    compressed = compressor.compress(lm, ids_T)             # all that travels
    injected = compressor.inject(lm, compressed)            # what the receiver feeds its model
    bits = compressor.bits(compressed)                      # the price

Row-wise compressors make each row of the embedding table narrower and keep the number of rows; sequence compressors put
fewer vectors in the place of a context. `interface` says what they have in common.
"""
