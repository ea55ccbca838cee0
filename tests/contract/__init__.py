"""RunPod's contract, proven with its real SDK in real worker processes against the emulated platform."""
