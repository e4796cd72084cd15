/* Takes the place of libyara/exception.h, which catches signals while it reads
 * mapped files. Here memory is never mapped: a bad access traps. */
#ifndef YR_EXCEPTION_H
#define YR_EXCEPTION_H

#include <yara/globals.h>

typedef struct
{
  void *memfault_from;
  void *memfault_to;
  void *jump_back;
} jumpinfo;

#define YR_TRYCATCH(_do_, _try_clause_, _catch_clause_) \
  do                                                    \
  {                                                     \
    _try_clause_                                        \
  } while (0)

#endif
