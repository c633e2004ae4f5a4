/* The part of NVIDIA's management library that the sidecar uses, for machines without a GPU.

   GPU 0 supports all queries, GPU 1 nearly none, GPU 2 has fallen off the bus. In the folder FAKE_NVML a file "lost"
   takes the driver away once, and a named pipe "stuck" blocks the counting of GPUs until something is written to it. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { unsigned int pid; unsigned long long used; unsigned int instance, compute; } Process;

static int started = 0;
static int devices[] = {0, 1, 2};

static const char *place(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("FAKE_NVML"), name);
    return path;
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    if (access(place("unloaded"), F_OK) == 0) return DRIVER_NOT_LOADED;
    started = 1;
    return SUCCESS;
}

int nvmlShutdown(void) { started = 0; return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    if (unlink(place("lost")) == 0) started = 0;
    if (!started) return UNINITIALIZED;
    if (access(place("stuck"), F_OK) == 0) close(open(place("stuck"), O_RDONLY));
    *count = 3;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, int **device) {
    if (index == 2) return GPU_IS_LOST;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetName(int *device, char *name, unsigned int size) {
    if (*device) return snprintf(name, size, "Odd \xff name"), SUCCESS;
    return snprintf(name, size, "NVIDIA A100-SXM4-80GB"), SUCCESS;
}

int nvmlDeviceGetUUID(int *device, char *uuid, unsigned int size) {
    if (*device) return NOT_SUPPORTED;
    return snprintf(uuid, size, "GPU-5f3a"), SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(int *device, Memory2 *memory) {
    if (*device) return NOT_SUPPORTED;
    memory->total = 85899345920ULL;
    memory->reserved = 1073741824ULL;
    memory->used = 42949672960ULL;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(int *device, Memory *memory) {
    if (!*device) return NOT_SUPPORTED;
    memory->total = 1000;
    memory->used = 250;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(int *device, Utilization *usage) {
    if (*device) return NOT_SUPPORTED;
    usage->gpu = 87;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(int *device, unsigned int sensor, unsigned int *celsius) {
    if (*device || sensor != 0) return NOT_SUPPORTED;
    *celsius = 64;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(int *device, unsigned int *milliwatts) {
    if (*device) return NOT_SUPPORTED;
    *milliwatts = 312500;
    return SUCCESS;
}

/* nvmlDeviceGetEnforcedPowerLimit is missing, as functions are in drivers that are older than the caller. */

int nvmlDeviceGetComputeRunningProcesses_v3(int *device, unsigned int *count, Process *processes) {
    if (*device) return NOT_SUPPORTED;
    if (*count < 2) return *count = 2, INSUFFICIENT_SIZE;
    processes[0] = (Process){4321, 40000000000ULL, 0, 0};
    processes[1] = (Process){4322, ~0ULL, 0, 0};
    *count = 2;
    return SUCCESS;
}

int nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int size) {
    if (pid != 4321) return NOT_FOUND;
    return snprintf(name, size, "/usr/bin/python3 -m server --api-key secret-of-a-process"), SUCCESS;
}
