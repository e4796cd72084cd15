/* There are no signals: a bad access traps and ends the instance. */
#ifndef RP_SIGNAL_H
#define RP_SIGNAL_H

struct sigaction
{
  int unused;
};

#endif
