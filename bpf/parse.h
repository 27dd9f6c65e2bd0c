// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * From a frame to a UDP datagram. Pure: no maps (bcc rewrites map calls in the main file only). Every
 * function checks its bounds against the cursor and leaves the frame as it is.
 */
#pragma once

#define VLAN_TAG 0x8100		 /* IEEE 802.1Q */
#define VLAN_SERVICE_TAG 0x88a8	 /* IEEE 802.1ad */
#define IPV4_FRAGMENT 0x3fff	 /* RFC 791: more fragments, or an offset */
#define IPV4_WITHOUT_OPTIONS 0x45 /* version 4, five words */
#define LONG_HEADER_BIT 0x80	 /* RFC 8999 §5 */
#define HTTP3_BIT 0x80		 /* docs/protocol.md §2, in a connection ID's first byte */
#define IPV4_MAPPED 0xffff	 /* RFC 4291 §2.5.5.2, the third word */

struct datagram {
	struct ethhdr *eth;
	struct iphdr *ip4; /* good if not ipv6 */
	struct ipv6hdr *ip6; /* good if ipv6 */
	__u32 ipv6; /* a number, since the verifier does not follow a NULL */
	struct udphdr *udp;
	__u8 *payload;
	__u32 ip_length;      /* bytes, with the IP header */
	__u32 payload_length; /* bytes */
};

/* 0, or the outcome that ends the matter. */
static __always_inline int parse_ipv4(struct iphdr *ip, void *end, struct datagram *found)
{
	if ((void *)(ip + 1) > end)
		return OUTCOME_BAD_FRAME;
	if (ip->protocol != IPPROTO_UDP)
		return OUTCOME_NOT_OURS;
	if (*(__u8 *)ip != IPV4_WITHOUT_OPTIONS)
		return ip->version == 4 && ip->ihl > 5 ? OUTCOME_IP_OPTIONS : OUTCOME_BAD_FRAME;
	if (ip->frag_off & bpf_htons(IPV4_FRAGMENT))
		return OUTCOME_FRAGMENT;
	found->ipv6 = 0;
	found->ip4 = ip;
	found->udp = (struct udphdr *)(ip + 1);
	found->ip_length = bpf_ntohs(ip->tot_len);
	return 0;
}

static __always_inline int parse_ipv6(struct ipv6hdr *ip, void *end, struct datagram *found)
{
	if ((void *)(ip + 1) > end)
		return OUTCOME_BAD_FRAME;
	switch (ip->nexthdr) {
	case IPPROTO_UDP:
		break;
	case IPPROTO_FRAGMENT:
		return OUTCOME_FRAGMENT;
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
	case IPPROTO_MH:
		return OUTCOME_IP_OPTIONS;
	default:
		return OUTCOME_NOT_OURS;
	}
	if (ip->version != 6)
		return OUTCOME_BAD_FRAME;
	found->ipv6 = 1;
	found->ip6 = ip;
	found->udp = (struct udphdr *)(ip + 1);
	found->ip_length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	return 0;
}

/* As far as the UDP header, whose ports the caller may then read. */
static __always_inline int parse_headers(void *data, void *end, struct datagram *found)
{
	struct ethhdr *eth = data;
	int outcome;

	if ((void *)(eth + 1) > end)
		return OUTCOME_BAD_FRAME;
	found->eth = eth;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		outcome = parse_ipv4((struct iphdr *)(eth + 1), end, found);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		outcome = parse_ipv6((struct ipv6hdr *)(eth + 1), end, found);
	else if (eth->h_proto == bpf_htons(VLAN_TAG) ||
		 eth->h_proto == bpf_htons(VLAN_SERVICE_TAG))
		outcome = OUTCOME_VLAN_TAG;
	else
		outcome = OUTCOME_NOT_OURS;
	if (outcome)
		return outcome;
	if ((void *)(found->udp + 1) > end)
		return OUTCOME_BAD_FRAME;
	return 0;
}

/* Do the lengths agree? Ethernet may pad a short frame, nothing may pad the IP packet. */
static __always_inline int parse_lengths(void *end, struct datagram *found)
{
	__u32 udp_length = bpf_ntohs(found->udp->len);
	__u32 ip_header = found->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);

	if (udp_length < sizeof(struct udphdr) || found->ip_length != ip_header + udp_length)
		return OUTCOME_BAD_FRAME;
	if ((void *)found->udp + udp_length > end)
		return OUTCOME_BAD_FRAME;
	/* RFC 8200 §8.1: over IPv6 a UDP checksum is not optional. */
	if (found->ipv6 && !found->udp->check)
		return OUTCOME_BAD_FRAME;
	found->payload = (__u8 *)(found->udp + 1);
	found->payload_length = udp_length - sizeof(struct udphdr);
	return 0;
}

static __always_inline void source_of(const struct datagram *datagram, struct source_key *key)
{
	if (!datagram->ipv6) {
		key->remote[0] = key->remote[1] = 0;
		key->local[0] = key->local[1] = 0;
		key->remote[2] = key->local[2] = bpf_htonl(IPV4_MAPPED);
		key->remote[3] = datagram->ip4->saddr;
		key->local[3] = datagram->ip4->daddr;
	} else {
		__builtin_memcpy(key->remote, &datagram->ip6->saddr, sizeof(key->remote));
		__builtin_memcpy(key->local, &datagram->ip6->daddr, sizeof(key->local));
	}
	key->remote_port = datagram->udp->source;
	key->local_port = datagram->udp->dest;
}

static __always_inline int same_path(const struct source_key *a, const struct source_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return *(__u32 *)&a->remote_port == *(__u32 *)&b->remote_port && x[1] == y[1] &&
	       x[3] == y[3] && x[0] == y[0] && x[2] == y[2];
}

/* The connection ID of a packet that may be for a peer: 0, or the outcome. RFC 8999 §5.2. */
static __always_inline int read_cid(const struct datagram *datagram, void *end,
				    const struct config *config, struct cid_key *cid)
{
	__u8 *payload = datagram->payload;

	if (datagram->payload_length < 1 || (void *)(payload + 1) > end)
		return OUTCOME_MALFORMED;
	if (payload[0] & LONG_HEADER_BIT)
		return OUTCOME_LONG_HEADER;
	if (datagram->payload_length < 1 + CID_LENGTH || (void *)(payload + 1 + CID_LENGTH) > end)
		return OUTCOME_MALFORMED;
	if (payload[1] & HTTP3_BIT)
		return OUTCOME_HTTP3;
	if (datagram->payload_length > config->max_payload)
		return OUTCOME_OVERSIZED;
	cid->words[0] = *(__u32 *)(payload + 1);
	cid->words[1] = *(__u32 *)(payload + 5);
	cid->words[2] = *(__u32 *)(payload + 9);
	return 0;
}
