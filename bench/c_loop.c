// SPDX-License-Identifier: MIT
/*
 * The least a forwarder can do in C: recvmmsg, one hash lookup per packet, sendmmsg. It checks no
 * source, counts nothing, expires nothing and knows IPv4 only: a yardstick for the kernel's own
 * limit, not a relay.
 *
 *   c_loop FD BATCH [gro]
 *
 * FD is a bound UDP socket. Standard input gives the routes, 28 bytes each: connection ID (12),
 * struct sockaddr_in (16). After the last one it prints "ready" and forwards until it is ended, or
 * its parent is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define CID_LENGTH 12
#define MAX_BATCH 1024
#define MAX_SEGMENTS 64
#define SLOTS (1u << 20)
#define CONTROL_SPACE CMSG_SPACE(sizeof(int))

struct route {
	uint8_t cid[CID_LENGTH];
	struct sockaddr_in to;
};

struct outbox {
	struct mmsghdr messages[MAX_BATCH * MAX_SEGMENTS];
	struct iovec parts[MAX_BATCH * MAX_SEGMENTS];
	char control[MAX_BATCH * MAX_SEGMENTS][CMSG_SPACE(sizeof(uint16_t))];
	unsigned count;
};

static struct route *slots[SLOTS];
static struct outbox out;

static uint32_t hash(const uint8_t *cid)
{
	uint64_t word;

	/* Connection IDs are digests already: any eight bytes of them will do. */
	memcpy(&word, cid + 1, sizeof word);
	return (uint32_t)((word * 0x9e3779b97f4a7c15u) >> 44) & (SLOTS - 1);
}

static struct route *find(const uint8_t *cid)
{
	for (uint32_t at = hash(cid); slots[at]; at = (at + 1) & (SLOTS - 1))
		if (!memcmp(slots[at]->cid, cid, CID_LENGTH))
			return slots[at];
	return NULL;
}

static void read_routes(void)
{
	struct route read;

	while (fread(&read, sizeof read, 1, stdin) == 1) {
		struct route *kept = malloc(sizeof *kept);
		uint32_t at = hash(read.cid);

		*kept = read;
		while (slots[at])
			at = (at + 1) & (SLOTS - 1);
		slots[at] = kept;
	}
}

static void stage(uint8_t *bytes, size_t length, struct route *route, unsigned segment)
{
	unsigned at = out.count++;
	struct msghdr *header = &out.messages[at].msg_hdr;

	out.parts[at] = (struct iovec){ .iov_base = bytes, .iov_len = length };
	*header = (struct msghdr){ .msg_name = &route->to,
				   .msg_namelen = sizeof route->to,
				   .msg_iov = &out.parts[at],
				   .msg_iovlen = 1 };
	if (length > segment) {
		struct cmsghdr *control = (struct cmsghdr *)out.control[at];

		control->cmsg_level = SOL_UDP;
		control->cmsg_type = UDP_SEGMENT;
		control->cmsg_len = CMSG_LEN(sizeof(uint16_t));
		*(uint16_t *)CMSG_DATA(control) = (uint16_t)segment;
		header->msg_control = control;
		header->msg_controllen = sizeof out.control[at];
	}
}

/* A run of segments with one destination leaves as one message. */
static void forward(uint8_t *bytes, size_t length, unsigned segment)
{
	size_t start = 0;
	struct route *route = NULL;

	for (size_t at = 0; at < length; at += segment) {
		struct route *next = NULL;

		if (length - at > CID_LENGTH && !(bytes[at] & 0x80))
			next = find(bytes + at + 1);
		if (route && (!next || memcmp(&next->to, &route->to, sizeof next->to))) {
			stage(bytes + start, at - start, route, segment);
			start = at;
		} else if (!route) {
			start = at;
		}
		route = next;
	}
	if (route)
		stage(bytes + start, length - start, route, segment);
}

static void send_staged(int fd)
{
	unsigned sent = 0;

	while (sent < out.count) {
		int n = sendmmsg(fd, out.messages + sent, out.count - sent, 0);

		sent += n > 0 ? (unsigned)n : 1;
	}
	out.count = 0;
}

static unsigned segment_of(struct msghdr *header, unsigned length)
{
	for (struct cmsghdr *each = CMSG_FIRSTHDR(header); each; each = CMSG_NXTHDR(header, each))
		if (each->cmsg_level == SOL_UDP && each->cmsg_type == UDP_GRO)
			return (unsigned)*(int *)CMSG_DATA(each);
	return length;
}

static void loop(int fd, unsigned batch, int gro)
{
	size_t size = gro ? 65536 + 192 : 2048 + 64;
	uint8_t *buffers = malloc(batch * size);
	char(*control)[CONTROL_SPACE] = calloc(batch, CONTROL_SPACE);
	struct mmsghdr *in = calloc(batch, sizeof *in);
	struct iovec *parts = calloc(batch, sizeof *parts);

	for (unsigned i = 0; i < batch; i++) {
		parts[i] = (struct iovec){ .iov_base = buffers + i * size, .iov_len = size };
		in[i].msg_hdr.msg_iov = &parts[i];
		in[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) {
		for (unsigned i = 0; gro && i < batch; i++) {
			in[i].msg_hdr.msg_control = control[i];
			in[i].msg_hdr.msg_controllen = CONTROL_SPACE;
		}
		int n = recvmmsg(fd, in, batch, MSG_WAITFORONE, NULL);

		if (n < 0 && errno != EINTR)
			exit(1);
		for (int i = 0; i < n; i++) {
			unsigned length = in[i].msg_len;

			if (length)
				forward(parts[i].iov_base, length,
					gro ? segment_of(&in[i].msg_hdr, length) : length);
		}
		send_staged(fd);
	}
}

int main(int count, char **words)
{
	int on = 1, fd = count > 2 ? atoi(words[1]) : -1;
	unsigned batch = count > 2 ? (unsigned)atoi(words[2]) : 0;
	int gro = count > 3 && !strcmp(words[3], "gro");

	if (fd < 0 || batch < 1 || batch > MAX_BATCH) {
		fprintf(stderr, "usage: c_loop FD BATCH [gro]\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (gro && setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on)) {
		perror("UDP_GRO");
		return 1;
	}
	read_routes();
	puts("ready");
	fflush(stdout);
	loop(fd, batch, gro);
}
