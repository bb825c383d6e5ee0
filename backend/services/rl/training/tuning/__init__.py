"""Search for better hyper-parameters, and the proof that they are better."""
