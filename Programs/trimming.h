/* Memory that nothing is in goes back to the system every so often
 * (Programs/trimming.c). */

#ifndef PYMEM_TRIMMING_H
#define PYMEM_TRIMMING_H

/* Trim every so many milliseconds while the interpreter of this process lives, in it
 * and in children that it forks.  Is the program python itself, or does it embed Python?
 * To be called once, before the interpreter has begun, after its allocators were set. */
void trimming_start(long milliseconds, int is_python);

#endif /* !PYMEM_TRIMMING_H */
