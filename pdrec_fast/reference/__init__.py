"""Pure PyTorch / NumPy references, written straight from the equations."""
