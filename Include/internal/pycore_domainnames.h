/* The names of the domains in messages, in the order of PyMemAllocatorDomain.
 *
 * It needs nothing: modules for other interpreters include it, too. */

#ifndef Py_INTERNAL_DOMAINNAMES_H
#define Py_INTERNAL_DOMAINNAMES_H

#define DOMAIN_NAMES {"raw", "mem", "object"}

#endif
