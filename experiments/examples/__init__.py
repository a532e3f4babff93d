"""The whole way with networks of different libraries, a file each."""
