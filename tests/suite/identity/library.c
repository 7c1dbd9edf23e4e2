/* A C library as others write them: static initialisers, pthreads and C11 threads, nothing of ours. */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <threads.h>

static pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t recursive = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static pthread_mutex_t checking = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
static pthread_mutex_t adaptive = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t table = PTHREAD_RWLOCK_INITIALIZER;
static once_flag once = ONCE_FLAG_INIT;
static mtx_t mtx;
static cnd_t cnd;
static int turn;
static long sum;

static void start(void) {
  mtx_init(&mtx, mtx_plain | mtx_recursive);
  cnd_init(&cnd);
}

static int add(pthread_mutex_t *mutex, void (*pause)(void)) {
  if (pthread_mutex_lock(mutex)) return 1;
  long before = sum;
  pause();
  sum = before + 1;
  return pthread_mutex_unlock(mutex);
}

/* Adds under each of the four mutexes; they nest, so that one number will do. */
int add_under_all(void (*pause)(void)) {
  int failed = pthread_mutex_lock(&plain);
  failed |= add(&recursive, pause) | add(&checking, pause) | add(&adaptive, pause);
  return failed | pthread_mutex_unlock(&plain);
}

long sum_so_far(void) { return sum; }

/* Takes turns with others of `count` by the condition variable. */
int take_turns(int me, int count, int rounds) {
  int failed = 0;
  for (int i = 0; i < rounds; i++) {
    failed |= pthread_mutex_lock(&plain);
    while (turn % count != me) failed |= pthread_cond_wait(&changed, &plain);
    turn++;
    failed |= pthread_cond_broadcast(&changed);
    failed |= pthread_mutex_unlock(&plain);
  }
  return failed;
}

/* The same in C11's words. */
int take_turns_c11(int me, int count, int rounds) {
  int failed = 0;
  call_once(&once, start);
  for (int i = 0; i < rounds; i++) {
    failed |= mtx_lock(&mtx) != thrd_success;
    while (turn % count != me) failed |= cnd_wait(&cnd, &mtx) != thrd_success;
    turn++;
    failed |= cnd_broadcast(&cnd) != thrd_success;
    failed |= mtx_unlock(&mtx) != thrd_success;
  }
  return failed;
}

/* A reader in the middle of a writer would see an odd number. */
static int pair[2];
int read_or_write(int write, void (*pause)(void)) {
  int failed = write ? pthread_rwlock_wrlock(&table) : pthread_rwlock_rdlock(&table);
  if (write) {
    pair[0]++;
    pause();
    pair[1]++;
  } else {
    pause();
    failed |= pair[0] != pair[1];
  }
  return failed | pthread_rwlock_unlock(&table);
}
