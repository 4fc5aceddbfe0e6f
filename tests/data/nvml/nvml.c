/* Stands in for libnvidia-ml.so.1: two GPUs, and a part of one that tells no utilisation. It needs no libc.

   Source of the functions and of their arguments: the NVML API Reference. */

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6

typedef struct { int number; } device;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} pci;

static device devices[3] = {{0}, {1}, {2}};
static const char *ids[3] = {"GPU-aaaaaaaa-0000", "GPU-bbbbbbbb-1111", "MIG-cccccccc-2222"};
static unsigned asked;

static int put(const char *text, char *where, unsigned room)
{
    unsigned at = 0;
    for (; text[at] && at + 1 < room; at++) where[at] = text[at];
    where[at] = 0;
    return SUCCESS;
}

static int same(const char *one, const char *other)
{
    while (*one && *one == *other) one++, other++;
    return *one == *other;
}

int nvmlInitWithFlags(unsigned flags) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return "an error of the stand-in"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **found)
{
    if (index > 1) return INVALID_ARGUMENT;
    *found = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *id, device **found)
{
    for (int number = 0; number < 3; number++)
        if (same(id, ids[number])) {
            *found = &devices[number];
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device *part, device **whole)
{
    *whole = &devices[1];
    return SUCCESS;
}

int nvmlDeviceGetName(device *of, char *name, unsigned room) { return put("NVIDIA Stand-in", name, room); }
int nvmlDeviceGetUUID(device *of, char *id, unsigned room) { return put(ids[of->number], id, room); }

int nvmlDeviceGetMemoryInfo(device *of, memory *info)
{
    info->total = 141ull << 30;
    info->used = (23ull + of->number) << 30;
    info->free = info->total - info->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(device *of, utilization *rates)
{
    if (of->number == 2) return NOT_SUPPORTED;
    rates->gpu = 50 + asked++ % 50;
    rates->memory = 0;
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(device *of, pci *info)
{
    info->domain = 0;
    info->bus = of->number == 0 ? 0x18 : 0x9b;
    info->device = 0;
    return SUCCESS;
}
