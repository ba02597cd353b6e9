/* The part of CPython's Python.h that is about memory.
 *
 *     cc prog.c $(pkg-config --cflags --libs pymem)
 *
 * A C program that uses only what is declared here runs without an
 * interpreter, and compiles unchanged as part of a CPython extension. */

#ifndef Py_PYTHON_H
#define Py_PYTHON_H

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pyport.h"
#include "pymem.h"
#include "objimpl.h"
#include "object.h"
#include "tracemalloc.h"
#include "pystate.h"
#include "pyerrors.h"

#endif /* !Py_PYTHON_H */
