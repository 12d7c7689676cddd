# The types of quick.py for the compiled module. A typed view costs an index and a bounds check for each item.
cimport cython

cdef bint COMPILED
cdef long long _CARD_STRIDE
cdef long long _RUN_STRIDE
cdef int _TOKEN, _LIVELY, _LETTER, _ASSIGN, _BETWEEN

cpdef bint may_hit(bytes block, int kinds=*)

cpdef bint card_by_runs(bytes block)

@cython.locals(data='const unsigned char[::1]', end=cython.longlong, at=cython.longlong, digits=cython.longlong,
               start=cython.longlong)
cpdef bint card_by_byte(bytes block)

@cython.locals(run=bytes, junk=cython.longlong, at=cython.longlong)
cdef bint _holds_card(bytes block, long long start, long long end)

@cython.locals(data='const unsigned char[::1]', classes='const unsigned char[::1]', end=cython.longlong,
               at=cython.longlong, start=cython.longlong, lively=cython.longlong, pos=cython.longlong,
               before=cython.longlong, letter=cython.bint, kind=cython.int)
cpdef bint secret_by_byte(bytes block)
