"""Download of published data sets: resumed, checked by hash, unpacked."""
