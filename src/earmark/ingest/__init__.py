"""From the source to the volume: archives are found, fetched, unpacked and encoded to Opus.

Rules ``fetch_archive``, ``unpack_archive`` and ``encode_opus``.  May import the ground modules.
"""
