"""Hours of daily work in one process, and whether its memory, descriptors and threads stay flat."""
