/* Blocks that other extension modules report: Modules/_tracerlinks.c. */

#ifndef PYMEM_TRACERLINKS_H
#define PYMEM_TRACERLINKS_H

/* In all that is loaded now let PyTraceMalloc_Track() and PyTraceMalloc_Untrack() be this
 * tracer's (1), or the interpreter's again (0). */
__attribute__((visibility("hidden"))) void tracer_link_others(int to_ours);

#endif /* !PYMEM_TRACERLINKS_H */
