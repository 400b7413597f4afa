"""Operations: argument checks, documentation and the choice of implementation."""
