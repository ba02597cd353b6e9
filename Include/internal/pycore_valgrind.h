/* Is this program watched by Valgrind?  It knows more of blocks than we do, if
 * each comes from malloc and goes back at once (--with-valgrind). */

#ifndef Py_INTERNAL_VALGRIND_H
#define Py_INTERNAL_VALGRIND_H

#include "pyport.h"

#ifdef WITH_VALGRIND
#  include <valgrind/valgrind.h>
#else
#  define RUNNING_ON_VALGRIND 0
#endif

static inline int
running_on_valgrind(void)
{
    return RUNNING_ON_VALGRIND != 0;
}

#endif /* !Py_INTERNAL_VALGRIND_H */
