/* A thread-local of the model that the compiler is told; initial-exec takes room that the loader keeps
   in blocks that exist already. */
static __thread int value __attribute__((tls_model(MODEL))) = 42;
int get(void) { return value; }
void set(int to) { value = to; }
