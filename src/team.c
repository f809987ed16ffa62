/* See team.h. */
#include "team.h"

#ifdef _OPENMP

#include <fenv.h>
#include <omp.h>
#include <stdatomic.h>

/* A thread of the runtime's has the environment that it was started with, or that the call before
 * left: rounding, what subnormals become, which exceptions trap. It is lent the caller's. */
typedef struct loan {
    fenv_t of_caller;
    atomic_int raised;
} loan;

static void lend(loan *l) {
    fegetenv(&l->of_caller);
    atomic_init(&l->raised, 0);
}

static void borrow(const loan *l, fenv_t *own) {
    fegetenv(own);
    fesetenv(&l->of_caller);
}

static void give_back(loan *l, const fenv_t *own) {
    atomic_fetch_or(&l->raised, fetestexcept(FE_ALL_EXCEPT));
    fesetenv(own);
}

/* What was raised anywhere, the caller's thread has raised. */
static void settle(loan *l) {
    feraiseexcept(atomic_load(&l->raised) & ~fetestexcept(FE_ALL_EXCEPT));
}

size_t bni_team_default(void) {
    return (size_t)omp_get_max_threads();
}

void bni_team_run(size_t threads, void (*member)(void *context, size_t i), void *context) {
    loan l;
    lend(&l);
#pragma omp parallel num_threads((int)threads)
    {
        fenv_t own;
        borrow(&l, &own);
        member(context, (size_t)omp_get_thread_num());
        give_back(&l, &own);
    }
    settle(&l);
}

void bni_team_in_turn(size_t threads, size_t count, void (*step)(void *context, size_t i),
                      void *context) {
    loan l;
    lend(&l);
#pragma omp parallel num_threads((int)threads)
    {
        fenv_t own;
        borrow(&l, &own);
#pragma omp for ordered schedule(static, 1)
        for (size_t i = 0; i < count; i++) {
            step(context, i);
        }
        give_back(&l, &own);
    }
    settle(&l);
}

void bni_team_turn(void (*action)(void *context, size_t i), void *context, size_t i) {
#pragma omp ordered
    action(context, i);
}

#else

size_t bni_team_default(void) {
    return 1;
}

void bni_team_run(size_t threads, void (*member)(void *context, size_t i), void *context) {
    (void)threads;
    member(context, 0);
}

void bni_team_in_turn(size_t threads, size_t count, void (*step)(void *context, size_t i),
                      void *context) {
    (void)threads;
    for (size_t i = 0; i < count; i++) {
        step(context, i);
    }
}

void bni_team_turn(void (*action)(void *context, size_t i), void *context, size_t i) {
    action(context, i);
}

#endif
