"""Speech as a corpus of utterances with speakers: real folders, a download, or synthetic voices."""
