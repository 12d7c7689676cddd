# The types of quick.py for the compiled module.
cimport cython

cdef bint COMPILED
cdef long long _STRIDE
cdef int _TOKEN, _LIVELY, _LETTER, _ASSIGN, _BETWEEN

cpdef bint may_hit(bytes block, int kinds=*)

@cython.locals(data='const unsigned char[::1]', end=cython.longlong, at=cython.longlong, digits=cython.longlong,
               left=cython.longlong)
cpdef bint card_by_byte(bytes block)

@cython.locals(data='const unsigned char[::1]', classes='const unsigned char[::1]', run=cython.longlong,
               lively=cython.longlong, letter=cython.bint, assigns=cython.bint, value=cython.bint,
               end=cython.longlong, at=cython.longlong, byte=cython.int, kind=cython.int)
cpdef bint secret_by_byte(bytes block)
