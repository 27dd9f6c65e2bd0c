// SPDX-License-Identifier: MIT
/*
 * Sends packets of 100 bytes for a time and receives what comes of them, all on one core:
 *
 *   kernel_load <port to send to> <own port> <receiver's port> <seconds> <file of connection IDs>
 *
 * One datagram per system call's message, no segmentation. Prints how many arrived, and the seconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64
#define SIZE 100
#define CID 12

static uint8_t out[BATCH][SIZE], in[BATCH][2048];

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static int open_socket(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = 1 << 24;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	if (bind(fd, (struct sockaddr *)&address, sizeof address)) {
		perror("bind");
		exit(1);
	}
	return fd;
}

int main(int count, char **words)
{
	struct mmsghdr sent[BATCH] = {0}, got[BATCH] = {0};
	struct iovec sent_at[BATCH], got_at[BATCH];
	struct sockaddr_in to = {.sin_family = AF_INET};
	uint64_t arrived = 0, next = 0, cids;
	uint8_t *ids;
	FILE *file;
	int sender, receiver, some;
	double begin, end;

	if (count != 6 || !(file = fopen(words[5], "rb")))
		return 2;
	fseek(file, 0, SEEK_END);
	cids = ftell(file) / CID;
	rewind(file);
	ids = malloc(cids * CID);
	if (fread(ids, CID, cids, file) != cids)
		return 2;
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port = htons(atoi(words[1]));
	sender = open_socket(atoi(words[2]));
	receiver = open_socket(atoi(words[3]));
	connect(sender, (struct sockaddr *)&to, sizeof to);
	for (int i = 0; i < BATCH; i++) {
		out[i][0] = 0x40;
		sent_at[i] = (struct iovec){out[i], SIZE};
		got_at[i] = (struct iovec){in[i], sizeof in[i]};
		sent[i].msg_hdr = (struct msghdr){.msg_iov = &sent_at[i], .msg_iovlen = 1};
		got[i].msg_hdr = (struct msghdr){.msg_iov = &got_at[i], .msg_iovlen = 1};
	}
	begin = now();
	end = begin + atof(words[4]);
	while (now() < end) {
		for (int i = 0; i < BATCH; i++, next++)
			memcpy(out[i] + 1, ids + (next % cids) * CID, CID);
		sendmmsg(sender, sent, BATCH, 0);
		while ((some = recvmmsg(receiver, got, BATCH, MSG_DONTWAIT, NULL)) > 0)
			arrived += some;
	}
	printf("%llu %.6f\n", (unsigned long long)arrived, now() - begin);
	return 0;
}
