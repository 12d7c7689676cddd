# The types of values.py for the compiled module.
cimport cython


cpdef bint may_hold_card(bytes data)
cpdef bint may_hold_ssn(bytes data)
cpdef list find(bytes value, int kinds=*)

@cython.locals(total=cython.int, digit=cython.int, double=cython.bint, position=cython.Py_ssize_t)
cpdef bint luhn(bytes digits)

@cython.locals(size=cython.Py_ssize_t, four=cython.int, one=cython.int, two=cython.int)
cpdef bint issued(bytes digits)

cpdef bint is_card(bytes digits)

@cython.locals(start=cython.Py_ssize_t, end=cython.Py_ssize_t, hits=list, groups=list, first=cython.Py_ssize_t,
               taken=cython.Py_ssize_t, count=cython.Py_ssize_t, begin=cython.Py_ssize_t, finish=cython.Py_ssize_t,
               digits=bytes, sizes=tuple)
cpdef list cards(bytes value)

@cython.locals(before=bytes, after=bytes, fraction=bytes)
cdef bint _stands_alone(bytes value, Py_ssize_t start, Py_ssize_t end)

@cython.locals(hits=list, at=cython.Py_ssize_t, end=cython.Py_ssize_t, left=bytes, local=bytes)
cdef list _emails(bytes value)
