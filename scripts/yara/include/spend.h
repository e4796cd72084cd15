/* Asks the host now and then whether to go on. See rp_check in shim.c. */
#ifndef RP_SPEND_H
#define RP_SPEND_H

/* A function whose loops call rp_spend themselves: counting each branch would make
 * it half as fast. Where such a function is inlined, its caller has to be one as
 * well. */
#define RP_COUNTS __attribute__((no_sanitize("coverage")))

extern int rp_budget;
void rp_check(void);

/* A step costs about 1. */
static inline void rp_spend(int n)
{
  if ((rp_budget -= n) < 0)
    rp_check();
}

#endif
