/* What bindgen cannot see in DPDK's headers: inline functions, RTE_BIT64 macros and the place
 * of fields that sit in anonymous unions (whose generated names change between releases). */
#ifndef GYRE_SHIM_H
#define GYRE_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_bus_vdev.h>
#include <rte_cycles.h>
#include <rte_devargs.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_pdump.h>
#include <rte_version.h>

static const uint64_t GYRE_TX_OFFLOAD_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t GYRE_RSS_IPV4 = RTE_ETH_RSS_IPV4;
static const uint64_t GYRE_RSS_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t GYRE_RSS_IPV4_UDP = RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t GYRE_RSS_IPV6 = RTE_ETH_RSS_IPV6;
static const uint64_t GYRE_RSS_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint64_t GYRE_RSS_IPV6_UDP = RTE_ETH_RSS_NONFRAG_IPV6_UDP;
static const uint32_t GYRE_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;
static const uint32_t GYRE_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;

static const uint64_t GYRE_MBUF_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;

static const size_t GYRE_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t GYRE_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len);
static const size_t GYRE_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t GYRE_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t GYRE_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t GYRE_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs);
static const size_t GYRE_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags);
static const size_t GYRE_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci);

/* What one mbuf of a pool costs besides its data room, before alignment. */
static const size_t GYRE_MBUF_OVERHEAD =
	sizeof(struct rte_mbuf) + sizeof(struct rte_mempool_objhdr);

int gyre_errno(void);
unsigned int gyre_lcore_id(void);
uint64_t gyre_tsc(void);

/* Bit-fields whose place differs between releases. Returns what rte_eth_link_get_nowait does. */
int gyre_link(uint16_t port, bool *up, uint32_t *speed_mbps);

uint16_t gyre_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);
uint16_t gyre_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);

struct rte_mbuf *gyre_mbuf_alloc(struct rte_mempool *pool);
int gyre_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **frames, unsigned int count);
void gyre_mbuf_free(struct rte_mbuf *frame);
void gyre_mbuf_free_bulk(struct rte_mbuf **frames, unsigned int count);
int gyre_mbuf_linearize(struct rte_mbuf *frame);
bool gyre_mempool_has_cache_here(struct rte_mempool *pool);

#endif
