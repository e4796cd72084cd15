/* One instance is one thread: there is nothing to lock. */
#ifndef RP_PTHREAD_H
#define RP_PTHREAD_H

#include <sys/types.h> /* the types are there, the functions are not */

#define PTHREAD_MUTEX_INITIALIZER {0}

#endif
