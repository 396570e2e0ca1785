/* A driver without a GPU: the functions that our two bindings call, on the host's memory, each at once.
 *
 * gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o libcuda.so.1 libcuda.c
 *
 * A call without a context, on memory that isn't allocated, or over a context that isn't retained is counted as
 * misuse. The last line that the process prints says what was left. STUB_VERSION is the CUDA version that it
 * serves, STUB_CAPTURES=0 refuses to capture graphs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID = 1, NO_CONTEXT = 201, NOT_FOUND = 500, UNSUPPORTED = 801 };
enum { MAX_LIVE = 4096, MAX_COPIES = 64 };
typedef struct { void *to; const void *from; size_t size; } Copy;
typedef struct { Copy copies[MAX_COPIES]; int count; } Graph;
typedef struct { Graph *captured; } Stream;
typedef struct { struct timespec at; int recorded; } Event;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *live[MAX_LIVE];
static int n_live, retained, misuses;
static __thread void *stack[8]; /* contexts of this thread, the current one last */
static __thread int depth;
static int primary; /* whose address stands for the primary context */

static int version(void) { const char *text = getenv("STUB_VERSION"); return text ? atoi(text) : 13000; }
static int misuse(int status) { __sync_add_and_fetch(&misuses, 1); return status; }
#define NEED_CONTEXT if (!depth || !stack[depth - 1] || !retained) return misuse(NO_CONTEXT)

__attribute__((destructor)) static void report(void) {
    fprintf(stderr, "stub driver: retained %d, live %d, misuses %d\n", retained, n_live, misuses);
}

static void *keep(void *object) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_LIVE; i++)
        if (!live[i]) { live[i] = object; n_live++; break; }
    pthread_mutex_unlock(&lock);
    return object;
}

static int drop(void *object) { /* whether it was there */
    int found = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_LIVE && object; i++)
        if (live[i] == object) { live[i] = NULL; n_live--; found = 1; break; }
    pthread_mutex_unlock(&lock);
    if (found) free(object);
    return found ? OK : misuse(INVALID);
}

int cuInit(unsigned flags) { return flags ? INVALID : OK; }
int cuDriverGetVersion(int *out) { *out = version(); return OK; }
int cuDeviceGetCount(int *out) { *out = 1; return OK; }
int cuDeviceGet(int *out, int ordinal) { *out = 0; return ordinal ? 101 : OK; }
int cuDeviceGetName(char *out, int size, int device) { snprintf(out, size, "Stub"); return device; }
int cuDeviceTotalMem_v2(size_t *out, int device) { *out = 1 << 30; return device; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 8; *minor = 7; return device; }
int cuDeviceGetAttribute(int *out, int kind, int device) {
    *out = kind == 75 ? 8 : kind == 76 ? 7 : kind == 16 ? 16 : 0;
    return device;
}
int cuGetErrorString(int error, const char **out) {
    *out = error == NO_CONTEXT ? "invalid device context" : error == INVALID ? "invalid argument" : "refused";
    return OK;
}
int cuGetErrorName(int error, const char **out) { *out = "CUDA_ERROR"; return error < 0; }

int cuDevicePrimaryCtxRetain(void **out, int device) {
    __sync_add_and_fetch(&retained, 1);
    *out = &primary;
    return device;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    if (__sync_sub_and_fetch(&retained, 1) < 0) return misuse(INVALID);
    return device;
}
int cuCtxSetCurrent(void *context) {
    if (!depth) depth = 1;
    if (!(stack[depth - 1] = context)) depth--;
    return OK;
}
int cuCtxPushCurrent_v2(void *context) { stack[depth++] = context; return OK; }
int cuCtxPopCurrent_v2(void **out) {
    if (!depth) return misuse(NO_CONTEXT);
    void *popped = stack[--depth];
    if (out) *out = popped;
    return OK;
}
int cuCtxGetCurrent(void **out) { *out = depth ? stack[depth - 1] : NULL; return OK; }
int cuCtxGetDevice(int *out) { *out = 0; return depth ? OK : NO_CONTEXT; }
int cuCtxSynchronize(void) { return OK; }

int cuMemAlloc_v2(uint64_t *out, size_t size) {
    NEED_CONTEXT;
    *out = (uint64_t)keep(aligned_alloc(256, (size + 255) / 256 * 256));
    return OK;
}
int cuMemFree_v2(uint64_t address) { NEED_CONTEXT; return drop((void *)address); }
int cuMemHostAlloc(void **out, size_t size, unsigned flags) { NEED_CONTEXT; *out = keep(malloc(size)); return OK; }
int cuMemFreeHost(void *address) { NEED_CONTEXT; return drop(address); }

int cuStreamCreate(Stream **out, unsigned flags) { NEED_CONTEXT; *out = keep(calloc(1, sizeof(Stream))); return OK; }
int cuStreamDestroy_v2(Stream *stream) { NEED_CONTEXT; return drop(stream); }
int cuStreamSynchronize(Stream *stream) { NEED_CONTEXT; return stream && stream->captured ? misuse(900) : OK; }
int cuStreamQuery(Stream *stream) { return OK; }

int cuEventCreate(Event **out, unsigned flags) { NEED_CONTEXT; *out = keep(calloc(1, sizeof(Event))); return OK; }
int cuEventDestroy_v2(Event *event) { NEED_CONTEXT; return drop(event); }
int cuEventRecord(Event *event, Stream *stream) {
    NEED_CONTEXT;
    event->recorded = 1;
    return clock_gettime(CLOCK_MONOTONIC, &event->at);
}
int cuEventSynchronize(Event *event) { return OK; }
int cuEventQuery(Event *event) { return OK; }
int cuEventElapsedTime(float *out, Event *from, Event *to) {
    if (!from->recorded || !to->recorded) return misuse(400);
    *out = (to->at.tv_sec - from->at.tv_sec) * 1e3f + (to->at.tv_nsec - from->at.tv_nsec) / 1e6f;
    return OK;
}
int cuEventElapsedTime_v2(float *out, Event *from, Event *to) { return cuEventElapsedTime(out, from, to); }

static int copy(void *to, const void *from, size_t size, Stream *stream) {
    if (stream && stream->captured) {
        Graph *graph = stream->captured;
        if (graph->count == MAX_COPIES) return INVALID;
        graph->copies[graph->count++] = (Copy){to, from, size};
    } else memcpy(to, from, size);
    return OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, Stream *stream) {
    NEED_CONTEXT;
    return copy((void *)to, from, size, stream);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, Stream *stream) {
    NEED_CONTEXT;
    return copy(to, (void *)from, size, stream);
}

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    NEED_CONTEXT;
    const char *captures = getenv("STUB_CAPTURES");
    if (captures && !atoi(captures)) return UNSUPPORTED;
    stream->captured = keep(calloc(1, sizeof(Graph)));
    return OK;
}
int cuStreamEndCapture(Stream *stream, Graph **out) {
    *out = stream->captured;
    stream->captured = NULL;
    return *out ? OK : misuse(INVALID);
}
int cuGraphInstantiateWithFlags(Graph **out, Graph *graph, uint64_t flags) {
    *out = keep(malloc(sizeof(Graph)));
    **out = *graph;
    return OK;
}
int cuGraphLaunch(Graph *graph, Stream *stream) {
    NEED_CONTEXT;
    for (int i = 0; i < graph->count; i++) copy(graph->copies[i].to, graph->copies[i].from, graph->copies[i].size, stream);
    return OK;
}
int cuGraphDestroy(Graph *graph) { return drop(graph); }
int cuGraphExecDestroy(Graph *graph) { return drop(graph); }

/* How cuda-python finds the functions: by name, and by the version of CUDA since which there is the variant. */
int cuGetProcAddress_v2(const char *name, void **out, int since, uint64_t flags, void *status) {
    char versioned[128];
    *out = NULL;
    if (since > version()) return NOT_FOUND;
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *out = dlsym(self, versioned);
    if (!*out) *out = dlsym(self, name);
    return *out ? OK : NOT_FOUND;
}
