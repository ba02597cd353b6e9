/* Blocks that the debug hooks freed, held back to see who still writes. */

#ifndef Py_INTERNAL_DEADBLOCKS_H
#define Py_INTERNAL_DEADBLOCKS_H

#include "cpython/pymem.h"

#define DEADBYTE 0xDD

/* A freed block: size bytes of memory, all DEADBYTE, that go back to alloc.
 * For a dump: the data was nbytes long at data and of domain api_id. */
struct dead_block {
    uint8_t *memory;
    size_t size;
    uint8_t *data;
    size_t nbytes;
    char api_id;
    PyMemAllocatorEx alloc;
};

/* Free a block of a domain now or later. */
void dead_block_add(PyMemAllocatorDomain domain, const struct dead_block *dead);

/* End the program if somebody wrote into one of the blocks that are held: the
 * next one of a domain in turn, or any of them. */
void dead_blocks_check_next(PyMemAllocatorDomain domain);
void dead_blocks_check_all(void);

#endif /* !Py_INTERNAL_DEADBLOCKS_H */
