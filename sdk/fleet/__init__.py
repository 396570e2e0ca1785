"""Many pictures on many machines, by Ray: a batch into Parquet files, and a service over HTTP.

Nothing else of the runtime imports this package, and Ray, an optional dependency, is imported by it alone.
"""
