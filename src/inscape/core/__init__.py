"""The torch-free core: what a question, a gate and a run are. It knows no study."""
