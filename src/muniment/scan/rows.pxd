# The types of rows.py for the compiled module; lengths are 64 bits wide, so that no shift of a byte overflows.
cimport cython

cdef int DATA_ROW
cdef long long SMALLEST
cdef long long NULL

@cython.locals(end=cython.longlong, rows=cython.longlong, size=cython.longlong)
cpdef tuple skip_rows(bytes data, long long pos)

@cython.locals(
    end=cython.longlong, width=cython.longlong, changed=cython.longlong, kept=cython.longlong, pos=cython.longlong,
    size=cython.longlong, stop=cython.longlong, start=cython.longlong, length=cython.longlong, place=cython.longlong,
    column=cython.longlong, pieces=list, frames=list, tally=list, heads=dict, value=bytes, frame=bytes, head=bytes)
cpdef tuple rewrite_rows(bytes block, tuple maskers)
