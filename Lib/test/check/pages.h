/* Pretend larger pages than the system has: see pages.c. */

#ifndef CHECK_PAGES_H
#define CHECK_PAGES_H

#include <stddef.h>

/* In bytes, a power of two and a multiple of the system's own pages; 0: those. */
void pages_pretend(size_t size);

#endif
