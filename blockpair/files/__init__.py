"""Which files of an ext4 or xfs file system some bytes of its device belong to. Reads only."""
