/* Static probes for tools that look at a running program: systemtap, bpftrace, gdb
 * (--with-dtrace).  One is a no-op instruction that such a tool may replace; in other
 * builds there is none.
 *
 *   pymem:alloc         domain, bytes asked for, block or NULL
 *   pymem:realloc       domain, old block, bytes asked for, new block or NULL
 *   pymem:free          domain, block
 *   pymem:arena__new    address, bytes
 *   pymem:arena__free   address, bytes
 *
 * A domain is 0, 1 or 2, as PyMemAllocatorDomain.  A request that a domain passes on to the raw
 * domain shows up there as well, where the raw domain's own function is called. */

#ifndef Py_INTERNAL_PROBES_H
#define Py_INTERNAL_PROBES_H

#include "pyport.h"

#ifdef WITH_DTRACE
#  include <sys/sdt.h>
#  define PROBE2(name, a, b) DTRACE_PROBE2(pymem, name, a, b)
#  define PROBE3(name, a, b, c) DTRACE_PROBE3(pymem, name, a, b, c)
#  define PROBE4(name, a, b, c, d) DTRACE_PROBE4(pymem, name, a, b, c, d)
#else
#  define PROBE2(name, a, b) ((void)0)
#  define PROBE3(name, a, b, c) ((void)0)
#  define PROBE4(name, a, b, c, d) ((void)0)
#endif

#endif /* !Py_INTERNAL_PROBES_H */
