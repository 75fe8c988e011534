"""The page: a trained codec and the runs, looked at in a browser on this machine."""
