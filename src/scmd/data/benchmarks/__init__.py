"""The benchmark data sets: where they are, how they are fetched, unpacked, arranged and checked."""
