/* Types and macros that every other header needs.
 *
 * The names are CPython's, so that code written for CPython compiles
 * unchanged.  Nothing here allocates. */

#ifndef Py_PYPORT_H
#define Py_PYPORT_H

#include "pyconfig.h"

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

/* A signed size: what CPython counts objects, items and bytes with. */
typedef ptrdiff_t Py_ssize_t;
#define PY_SSIZE_T_MAX ((Py_ssize_t)(SIZE_MAX >> 1))
#define PY_SSIZE_T_MIN (-PY_SSIZE_T_MAX - 1)

/* The library is compiled with hidden visibility; only what is declared
 * with one of these two can be linked to from outside. */
#if defined(__GNUC__)
#  define PyAPI_FUNC(RTYPE) __attribute__((visibility("default"))) RTYPE
#  define PyAPI_DATA(RTYPE) extern __attribute__((visibility("default"))) RTYPE
#  define _Py_NO_RETURN __attribute__((noreturn))
#else
#  define PyAPI_FUNC(RTYPE) RTYPE
#  define PyAPI_DATA(RTYPE) extern RTYPE
#  define _Py_NO_RETURN
#endif

#endif /* !Py_PYPORT_H */
