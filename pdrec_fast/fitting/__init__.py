"""What every fitted model shares: the epoch loop and the files it writes. Imports no models."""
