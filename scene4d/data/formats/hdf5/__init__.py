"""HDF5 files of robot data sets, read in a guarded process."""
