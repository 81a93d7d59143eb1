#include "front_end.h"

#include "bytes.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Where things lie in RAM: three MiB for each ring. The header and the status of a slot lie in
 * front of the buffers. */
enum {
    RING_BYTES = 3 << 20,
    AVAIL = 0x10000,
    USED = 0x20000,
    HEADERS = 0x30000,
    STATUS = 0x31000,
    BUFFERS = 0x40000,
};

static size_t ring_offset(unsigned ring)
{
    return (size_t)ring * RING_BYTES;
}

bool front_end_open(struct front_end *fe, int socket)
{
    *fe = (struct front_end){.socket = socket};
    fe->ram_fd = memfd_create("guest", MFD_CLOEXEC);
    if (fe->ram_fd < 0 || ftruncate(fe->ram_fd, FRONT_END_RAM) < 0)
        return false;
    fe->ram = mmap(NULL, FRONT_END_RAM, PROT_READ | PROT_WRITE, MAP_SHARED, fe->ram_fd, 0);
    if (fe->ram == MAP_FAILED)
        return false;
    for (unsigned i = 0; i < FRONT_END_RINGS; i++) {
        struct front_end_ring *ring = &fe->rings[i];

        ring->desc = (struct vring_desc *)(void *)(fe->ram + ring_offset(i));
        ring->avail = (struct vring_avail *)(void *)(fe->ram + ring_offset(i) + AVAIL);
        ring->used = (struct vring_used *)(void *)(fe->ram + ring_offset(i) + USED);
        ring->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ring->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (ring->kick < 0 || ring->call < 0)
            return false;
    }
    return true;
}

void front_end_close(struct front_end *fe)
{
    for (unsigned i = 0; i < FRONT_END_RINGS; i++) {
        close(fe->rings[i].kick);
        close(fe->rings[i].call);
    }
    munmap(fe->ram, FRONT_END_RAM);
    close(fe->ram_fd);
    if (fe->socket >= 0)
        close(fe->socket);
}

int front_end_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* ---- messages ---- */

bool front_end_send(struct front_end *fe, uint32_t request, uint32_t flags, const void *payload,
                    uint32_t size, const int *fds, unsigned fd_count)
{
    enum { MAX = 64 };
    union {
        char bytes[CMSG_SPACE(MAX * sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct vu_header header = {request, VU_VERSION | flags, size};
    struct iovec iov[] = {{&header, sizeof(header)}, {(void *)(uintptr_t)payload, size}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = payload ? 2 : 1};

    if (fd_count > 0) {
        control.align = (struct cmsghdr){.cmsg_len = CMSG_LEN(fd_count * sizeof(int)),
                                         .cmsg_level = SOL_SOCKET,
                                         .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.align), fds, fd_count * sizeof(int));
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
    }
    return sendmsg(fe->socket, &msg, MSG_NOSIGNAL) ==
           (ssize_t)(sizeof(header) + (payload ? size : 0));
}

/* Exactly `length` bytes, and the descriptor that comes with them. */
static bool receive(struct front_end *fe, void *to, size_t length, int *fd)
{
    while (length > 0) {
        union {
            char bytes[CMSG_SPACE(sizeof(int))];
            struct cmsghdr align;
        } control;
        struct iovec iov = {to, length};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
        struct pollfd pfd = {.fd = fe->socket, .events = POLLIN};
        ssize_t n;

        if (poll(&pfd, 1, FRONT_END_TIMEOUT_MS) != 1)
            return false;
        n = recvmsg(fe->socket, &msg, MSG_CMSG_CLOEXEC);
        if (n <= 0)
            return false;
        if (CMSG_FIRSTHDR(&msg) && fd)
            memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(*fd));
        to = (uint8_t *)to + n;
        length -= (size_t)n;
    }
    return true;
}

bool front_end_receive(struct front_end *fe, uint32_t request, void *payload, uint32_t size,
                       int *fd)
{
    struct vu_header header;

    if (fd)
        *fd = -1;
    return receive(fe, &header, sizeof(header), fd) && header.request == request &&
           header.flags == (VU_VERSION | VU_FLAG_REPLY) && header.size == size &&
           receive(fe, payload, size, fd);
}

bool front_end_tell(struct front_end *fe, uint32_t request, const void *payload, uint32_t size,
                    const int *fds, unsigned fd_count)
{
    uint64_t result;

    return front_end_send(fe, request, VU_FLAG_NEED_REPLY, payload, size, fds, fd_count) &&
           front_end_receive(fe, request, &result, sizeof(result), NULL) && result == 0;
}

bool front_end_tell_u64(struct front_end *fe, uint32_t request, uint64_t value)
{
    return front_end_tell(fe, request, &value, sizeof(value), NULL, 0);
}

bool front_end_tell_ring(struct front_end *fe, uint32_t request, uint32_t index, uint32_t number)
{
    const struct vu_ring_state state = {index, number};

    return front_end_tell(fe, request, &state, sizeof(state), NULL, 0);
}

bool front_end_ask(struct front_end *fe, uint32_t request, void *payload, uint32_t size, int *fd)
{
    return front_end_send(fe, request, 0, payload, size, NULL, 0) &&
           front_end_receive(fe, request, payload, size, fd);
}

uint64_t front_end_ask_u64(struct front_end *fe, uint32_t request)
{
    uint64_t value;

    return front_end_send(fe, request, 0, NULL, 0, NULL, 0) &&
                   front_end_receive(fe, request, &value, sizeof(value), NULL)
               ? value
               : UINT64_MAX;
}

bool front_end_was_closed(struct front_end *fe)
{
    struct pollfd pfd = {.fd = fe->socket, .events = POLLIN};
    char byte;

    return poll(&pfd, 1, FRONT_END_TIMEOUT_MS) == 1 && recv(fe->socket, &byte, 1, 0) <= 0;
}

/* ---- set-up ---- */

bool front_end_negotiate(struct front_end *fe, uint64_t features)
{
    uint64_t protocol,
        wanted = features | 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VU_F_PROTOCOL_FEATURES;

    if ((front_end_ask_u64(fe, VU_GET_FEATURES) & wanted) != wanted)
        return false;
    protocol = front_end_ask_u64(fe, VU_GET_PROTOCOL_FEATURES);
    /* Before it there are no acknowledgements. */
    return front_end_send(fe, VU_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof(protocol), NULL, 0) &&
           front_end_tell(fe, VU_SET_OWNER, NULL, 0, NULL, 0) &&
           front_end_tell_u64(fe, VU_SET_FEATURES, wanted);
}

struct vu_region front_end_region(const struct front_end *fe)
{
    return (struct vu_region){
        .gpa = FRONT_END_GPA, .size = FRONT_END_RAM, .user = (uintptr_t)fe->ram};
}

bool front_end_share_memory(struct front_end *fe)
{
    struct vu_memory table = {.count = 1, .regions = {front_end_region(fe)}};

    return front_end_tell(fe, VU_SET_MEM_TABLE, &table, VU_MEMORY_HEADER + sizeof(struct vu_region),
                          &fe->ram_fd, 1);
}

struct vu_ring_address front_end_ring_address(const struct front_end *fe, unsigned index)
{
    return (struct vu_ring_address){.index = index,
                                    .desc = (uintptr_t)fe->rings[index].desc,
                                    .avail = (uintptr_t)fe->rings[index].avail,
                                    .used = (uintptr_t)fe->rings[index].used};
}

bool front_end_start_ring(struct front_end *fe, unsigned index, uint16_t base)
{
    const struct vu_ring_address address = front_end_ring_address(fe, index);
    const uint64_t u64 = index;

    return front_end_tell_ring(fe, VU_SET_VRING_NUM, index, FRONT_END_RING_SIZE) &&
           front_end_tell_ring(fe, VU_SET_VRING_BASE, index, base) &&
           front_end_tell(fe, VU_SET_VRING_ADDR, &address, sizeof(address), NULL, 0) &&
           front_end_tell(fe, VU_SET_VRING_KICK, &u64, sizeof(u64), &fe->rings[index].kick, 1) &&
           front_end_tell(fe, VU_SET_VRING_CALL, &u64, sizeof(u64), &fe->rings[index].call, 1) &&
           front_end_tell_ring(fe, VU_SET_VRING_ENABLE, index, 1);
}

/* ---- requests ---- */

static uint64_t gpa(const struct front_end *fe, const void *p)
{
    return FRONT_END_GPA + (uint64_t)((const uint8_t *)p - fe->ram);
}

uint8_t *front_end_data(struct front_end *fe, unsigned ring, unsigned slot)
{
    return fe->ram + ring_offset(ring) + BUFFERS + (size_t)slot * FRONT_END_DATA;
}

uint8_t *front_end_status(struct front_end *fe, unsigned ring, unsigned slot)
{
    return fe->ram + ring_offset(ring) + STATUS + slot;
}

void front_end_prepare(struct front_end *fe, unsigned ring, unsigned slot, uint32_t type,
                       uint64_t sector, uint32_t bytes)
{
    const struct virtio_blk_outhdr header = {.type = htole32(type), .sector = htole64(sector)};
    uint16_t device_writes =
        type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID ? VRING_DESC_F_WRITE : 0;
    uint8_t *at = fe->ram + ring_offset(ring) + HEADERS + slot * sizeof(header);
    struct vring_desc *desc = fe->rings[ring].desc + (size_t)slot * 3;
    uint16_t head = (uint16_t)(slot * 3);

    memcpy(at, &header, sizeof(header));
    *front_end_status(fe, ring, slot) = 0xee;
    desc[0] = (struct vring_desc){htole64(gpa(fe, at)), htole32(sizeof(header)),
                                  htole16(VRING_DESC_F_NEXT),
                                  htole16((uint16_t)(head + (bytes > 0 ? 1 : 2)))};
    desc[1] = (struct vring_desc){htole64(gpa(fe, front_end_data(fe, ring, slot))), htole32(bytes),
                                  htole16(VRING_DESC_F_NEXT | device_writes),
                                  htole16((uint16_t)(head + 2))};
    desc[2] = (struct vring_desc){htole64(gpa(fe, front_end_status(fe, ring, slot))), htole32(1),
                                  htole16(VRING_DESC_F_WRITE), 0};
}

void front_end_offer(struct front_end *fe, unsigned ring, unsigned slot)
{
    struct vring_avail *avail = fe->rings[ring].avail;
    uint16_t idx = le16toh(avail->idx);

    avail->ring[idx % FRONT_END_RING_SIZE] = htole16((uint16_t)(slot * 3));
    __atomic_store_n(&avail->idx, htole16((uint16_t)(idx + 1)), __ATOMIC_SEQ_CST);
}

void front_end_kick(struct front_end *fe, unsigned ring)
{
    const uint64_t one = 1;

    if (!(le16toh(__atomic_load_n(&fe->rings[ring].used->flags, __ATOMIC_SEQ_CST)) &
          VRING_USED_F_NO_NOTIFY))
        (void)!write(fe->rings[ring].kick, &one, sizeof(one));
}

int front_end_wait(struct front_end *fe, unsigned index)
{
    struct front_end_ring *ring = &fe->rings[index];

    while (le16toh(__atomic_load_n(&ring->used->idx, __ATOMIC_SEQ_CST)) == ring->last_used) {
        struct pollfd pfd = {.fd = ring->call, .events = POLLIN};
        uint64_t count;

        if (poll(&pfd, 1, FRONT_END_TIMEOUT_MS) != 1)
            return -1;
        (void)!read(ring->call, &count, sizeof(count));
    }
    return (int)(le32toh(ring->used->ring[ring->last_used++ % FRONT_END_RING_SIZE].id) / 3);
}

int front_end_request(struct front_end *fe, unsigned ring, uint32_t type, uint64_t sector,
                      uint32_t bytes)
{
    front_end_prepare(fe, ring, 0, type, sector, bytes);
    front_end_offer(fe, ring, 0);
    front_end_kick(fe, ring);
    return front_end_wait(fe, ring) == 0 ? *front_end_status(fe, ring, 0) : -1;
}
