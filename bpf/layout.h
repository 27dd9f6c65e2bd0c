// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What lies in the maps. bpf/layout.py mirrors it for Python; tests/bpf/test_layout.py compares the
 * two field by field. Addresses are in network byte order; an IPv4 address takes the last word, after
 * ::ffff:0:0/96, so that one key serves both families. Times are CLOCK_MONOTONIC in nanoseconds.
 */
#pragma once

#define CID_LENGTH 12
#define LISTENING_PORTS 4

/* Where a frame went, or why it was passed up. bpf/layout.py names these for every report. */
enum outcome {
	OUTCOME_FORWARDED,
	OUTCOME_RATE_LIMITED,	      /* dropped: the sender is over its rate */
	OUTCOME_ALLOWANCE_USED,	      /* dropped: all that it may have forwarded was forwarded */
	OUTCOME_NOT_OURS,	      /* from here on: passed up */
	OUTCOME_BAD_FRAME,	      /* headers end early, or contradict each other */
	OUTCOME_VLAN_TAG,
	OUTCOME_FRAGMENT,
	OUTCOME_IP_OPTIONS,	      /* also IPv6 extension headers */
	OUTCOME_OTHER_HOST,	      /* the frame is not for this interface's own MAC address */
	OUTCOME_MALFORMED,	      /* not a QUIC header */
	OUTCOME_LONG_HEADER,
	OUTCOME_HTTP3,
	OUTCOME_UNKNOWN_CID,
	OUTCOME_UNREGISTERED_SOURCE,
	OUTCOME_EXPIRED,
	OUTCOME_FAMILY_MISMATCH,
	OUTCOME_OVERSIZED,	      /* longer than one datagram can be: a GSO frame */
	OUTCOME_TOO_BIG,	      /* for the next hop's MTU */
	OUTCOME_HOP_LIMIT,
	OUTCOME_NO_NEXT_HOP,
	OUTCOME_PARTIAL_CHECKSUM,     /* left to the hardware by a sender on this machine */
	OUTCOME_BUSY,		      /* the entry is being rewritten */
	OUTCOME_ABORTED,	      /* dropped: a helper failed that cannot */
	OUTCOMES,
};

/* How packets to an owner leave; the program notes the last one for `xdp status`. */
enum way {
	WAY_NONE,
	WAY_LOOPBACK,
	WAY_FIB,
	WAY_LEARNED,
};

struct cid_key {
	__u32 words[CID_LENGTH / 4];
};
_Static_assert(sizeof(struct cid_key) == 12, "no padding");

/*
 * Numbers of owners are used again: a reference whose generation is not its owner's is a left-over.
 */
struct owner_ref {
	__u32 owner;
	__u32 generation;
};
_Static_assert(sizeof(struct owner_ref) == 8, "no padding");

struct cid_entry {
	struct owner_ref to;
	__u32 sender; /* who used it last, written by the program: a guess that is always checked */
	__u32 pad;
};
_Static_assert(sizeof(struct cid_entry) == 16, "no padding");

struct source_key {
	__be32 remote[4];
	__be32 local[4];
	__be16 remote_port;
	__be16 local_port;
};
_Static_assert(sizeof(struct source_key) == 36, "no padding");

/* Learned from the last frame that came from the owner's registered source. */
struct hop {
	__u64 seen_ns; /* 0: none, or being written */
	__u8 peer_mac[6];
	__u8 own_mac[6];
	__u32 ifindex;
	__u32 mtu; /* of that interface, in bytes of IP */
	__u32 pad;
};
_Static_assert(sizeof(struct hop) == 32, "no padding");

/* What the kernel's routes and neighbours said of an owner a moment ago. */
struct route {
	__u64 until_ns; /* 0: nothing, or being written */
	__u8 peer_mac[6];
	__u8 own_mac[6];
	__u32 egress;
	__u32 ingress; /* what was asked for: a rule may look at both */
	__u16 mtu;
	__u8 tos;
	__u8 pad;
};
_Static_assert(sizeof(struct route) == 32, "no padding");

struct owner {
	/* The first cache line: written by the relay, only read by the program. */
	__u32 sequence;	  /* odd while the relay writes */
	__u32 generation; /* 0: free */
	__u64 lease_end_ns;
	struct source_key path; /* as the owner's own packets show it */
	__u32 ipv6;	      /* 0 or 1 */
	__u32 packet_cost_ns; /* token buckets, charged to the sender; 0: no limit */
	__u32 byte_cost;      /* in 1/1024 ns */

	__u64 burst_ns; /* what a full bucket holds, in time */
	__u64 packets_until_ns; /* when the bucket is full again; written by the program */
	__u64 bytes_until_ns;
	__u8 id[16];	     /* of the registration, and the digest of its key: a restarted relay */
	__u8 key_digest[16]; /* reads them, the program does not */
	__u32 buckets[2];    /* what it shares with others is charged to these, too; 0: to none */

	/* The last two cache lines: written by the program. */
	struct hop hop;
	__u64 packets; /* forwarded for this owner as the sender */
	__u64 bytes;   /* their UDP payload */
	__u32 way;     /* enum way */
	__u32 pad2;
	__u64 pad3;

	struct route route;
	__u64 pad4[4];
};
_Static_assert(sizeof(struct owner) == 256, "four cache lines");

/*
 * What several owners may have forwarded together: of one subject, of one source. Number 0 is nobody's.
 * The workers have buckets of their own; the relay gives each a part of the rate.
 */
struct bucket {
	__u32 packet_cost_ns; /* 0: no limit */
	__u32 byte_cost;      /* in 1/1024 ns; 0: no limit */
	__u32 burst_ns;
	__u32 shut;	      /* nothing passes any more */
	__u64 packets_until_ns; /* from here on written by the program */
	__u64 bytes_until_ns;
	__u64 packets;
	__u64 bytes;
	__u64 dropped_packets;
	__u64 dropped_bytes;
};
_Static_assert(sizeof(struct bucket) == 64, "a cache line");

/* An interface that the program is attached to, by index. */
struct link {
	__u8 mac[6];
	__u8 native; /* 0 or 1 */
	__u8 pad;
	__u32 mtu;
};
_Static_assert(sizeof(struct link) == 12, "no padding");

struct config {
	__be16 ports[LISTENING_PORTS]; /* unused places repeat the first */
	__u32 max_payload;	       /* bytes of UDP payload */
	__u32 fib;		       /* bit 0: IPv4 forwarding is on somewhere, bit 1: IPv6 */
	__u64 hop_max_age_ns;
};
_Static_assert(sizeof(struct config) == 24, "no padding");
