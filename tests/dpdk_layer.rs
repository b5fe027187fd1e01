//! The DPDK layer on devices made of software: no NIC, no hugepages, no root.
//!
//! EAL starts once in a process, so each test runs itself again in a process of its own.
#![cfg(feature = "dpdk")]

mod dpdk_support;
mod harness;

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use dpdk_support::{MBUFS, eal, in_own_process, open, pool, refusal};
use gyre::dpdk::eal_args::FreeHugepages;
use gyre::dpdk::{
    Eal, EalConfig, EalError, Mbuf, MbufError, MbufPool, MbufVec, MemoryMode, Nic, NicConfig,
    NicError, TscClock,
};
use gyre::time::NANOS_PER_MILLI;

/// This thread's CPUs, then the signals it blocks, ignores and catches.
fn thread_status() -> Vec<String> {
    let kept = ["Cpus_allowed_list:", "SigBlk:", "SigIgn:", "SigCgt:"];
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    kept.iter()
        .map(|name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap())
        .map(|value| value.trim().to_owned())
        .collect()
}

fn eal_starts_once_and_leaves_affinity_and_signals_alone() {
    in_own_process("eal_starts_once_and_leaves_affinity_and_signals_alone", || {
        let before = thread_status();
        let eal = eal();
        assert_eq!(thread_status(), before);
        assert!(eal.memory().summary().contains("ordinary pages"));
        assert!(matches!(Eal::start(&EalConfig::default()), Err(EalError::AlreadyStarted)));
        let pool = pool(&eal);
        let (nic, queues) = open("net_null0", 1, &pool);
        drop((queues, nic, pool, eal));
        assert_eq!(thread_status(), before);
    });
}

fn eal_threads_stay_off_the_other_cores() {
    in_own_process("eal_threads_stay_off_the_other_cores", || {
        let eal = eal();
        let main_core = eal.main_core().to_string();
        let mut seen = 0;
        for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            if !status.starts_with("Name:\teal-") && !status.starts_with("Name:\trte") {
                continue;
            }
            let allowed = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
            assert_eq!(allowed.map(str::trim), Some(main_core.as_str()), "{status}");
            seen += 1;
        }
        assert!(seen > 0, "EAL has an interrupt thread at least");
    });
}

/// What the tests on hugepages take.
const MEMORY_MIB: u32 = 64;

/// Starts EAL with `config` on hugepages in a process of its own.
fn on_hugepages(test: &str, config: EalConfig, body: impl FnOnce(&Eal)) {
    in_own_process(test, || {
        let config = EalConfig {
            memory_mib: MEMORY_MIB,
            worker_cores: vec![1],
            main_core: Some(0),
            file_prefix: test.to_owned(),
            ..config
        };
        body(&Eal::start(&config).unwrap());
    });
    // What EAL leaves for secondary processes.
    let _ = fs::remove_dir_all(Path::new("/run/dpdk").join(test));
}

fn multi_process() -> EalConfig {
    EalConfig { multi_process: true, ..EalConfig::default() }
}

fn hugepages_are_used_when_there_are_enough() {
    on_hugepages("hugepages_are_used_when_there_are_enough", EalConfig::default(), |eal| {
        assert!(matches!(eal.memory(), MemoryMode::Hugepages { .. }));
        let pool = pool(eal);
        let (nic, mut queues) = open("net_null0", 1, &pool);
        assert_eq!(queues[0].rx.rx_burst(&mut MbufVec::new()), 32);
        drop(queues);
        nic.close().unwrap();
        assert_eq!(pool.in_use(), 0);
    });
}

/// Registering threads would lock secondary processes out for good, so that in this mode workers
/// run on EAL's lcores instead, with a cache all the same.
fn multi_process_workers_run_on_eal_lcores() {
    on_hugepages("multi_process_workers_run_on_eal_lcores", multi_process(), |eal| {
        assert!(matches!(eal.memory(), MemoryMode::SharedHugepages { .. }));
        assert!(eal.register_worker_thread().is_err());
        let pool = pool(eal);
        for _ in 0..2 {
            let (tell, told) = mpsc::channel();
            let own = pool.clone();
            let work =
                move || tell.send((own.has_cache_here(), thread_status().remove(0))).unwrap();
            let worker = eal.spawn_worker("worker", 1, work).unwrap();
            assert_eq!(told.recv().unwrap(), (true, "1".to_owned()));
            let busy = eal.spawn_worker("worker", 1, || ()).err().unwrap();
            assert!(matches!(busy, EalError::NoSuchLcore { core: 1 }), "{busy}");
            worker.join();
        }
        let absent = eal.spawn_worker("worker", 0, || ()).err().unwrap();
        assert!(matches!(absent, EalError::NoSuchLcore { core: 0 }), "{absent}");
    });
}

fn dumpcap_sees_a_multi_process_worker_s_frames() {
    let test = "dumpcap_sees_a_multi_process_worker_s_frames";
    let dumpcap = dumpcap_program();
    on_hugepages(test, multi_process(), |eal| {
        let pool = pool(eal);
        let (nic, mut queues) = open("net_null0", 1, &pool);
        let stop = Arc::new(AtomicBool::new(false));
        let own_stop = Arc::clone(&stop);
        let work = move || {
            while !own_stop.load(Ordering::Relaxed) {
                queues[0].rx.rx_burst(&mut MbufVec::new());
                thread::sleep(Duration::from_micros(100));
            }
        };
        let worker = eal.spawn_worker("worker", 1, work).unwrap();
        let file = env::temp_dir().join(format!("gyre-{}.pcapng", std::process::id()));
        let arguments = ["--file-prefix", test, "-i", "0", "-c", "50", "-w"];
        let output = Command::new(&dumpcap).args(arguments).arg(&file).output();
        stop.store(true, Ordering::Relaxed);
        worker.join();
        let bytes = fs::metadata(&file).map_or(0, |file| file.len());
        let _ = fs::remove_file(&file);
        assert!(bytes > 50 * 60, "{bytes} bytes captured: {output:?}");
        nic.close().unwrap();
        assert_eq!(pool.in_use(), 0);
    });
}

fn mbufs_are_counted_edited_and_returned() {
    in_own_process("mbufs_are_counted_edited_and_returned", || {
        let eal = eal();
        let pool = pool(&eal);
        assert_eq!((pool.available(), pool.in_use()), (MBUFS, 0));
        let mut mbuf = Mbuf::alloc_from(&pool, b"ethernet").unwrap();
        assert_eq!((mbuf.len(), mbuf.is_chained(), pool.in_use()), (8, false, 1));
        let mut frame = mbuf.frame();
        assert_eq!((frame.headroom_bytes(), frame.tailroom_bytes()), (128, 2048 - 8));
        frame.open_gap(5, 4).unwrap();
        frame.bytes_mut()[5..9].copy_from_slice(b"-4b-");
        let (start, end) = frame.extent();
        mbuf.set_extent(start, end);
        assert_eq!((mbuf.bytes(), mbuf.len()), (&b"ether-4b-net"[..], 12));
        assert_eq!(mbuf.vlan_stripped(), None);
        let too_large = Mbuf::alloc_from(&pool, &[0; 2049]).err();
        assert_eq!(too_large, Some(MbufError::TooLarge));
        drop(mbuf);
        assert_eq!((pool.available(), pool.in_use()), (MBUFS, 0));
    });
}

fn bulk_and_exhaustion_are_counted_too() {
    in_own_process("bulk_and_exhaustion_are_counted_too", || {
        let eal = eal();
        let pool = pool(&eal);
        let mut burst = MbufVec::new();
        assert!(Mbuf::alloc_bulk(&pool, &mut burst, 64));
        assert!(!Mbuf::alloc_bulk(&pool, &mut burst, 1), "no room left in the burst");
        assert_eq!(pool.in_use(), 64);
        Mbuf::free_bulk(&mut burst);
        assert_eq!((burst.len(), pool.in_use()), (0, 0));
        // Those that find no room are freed.
        let mut more = MbufVec::new();
        assert!(Mbuf::alloc_bulk(&pool, &mut burst, 60) && Mbuf::alloc_bulk(&pool, &mut more, 3));
        Mbuf::append(&mut burst, &mut more);
        assert_eq!((burst.len(), more.len(), pool.in_use()), (63, 0, 63));
        assert!(Mbuf::alloc_bulk(&pool, &mut more, 3));
        Mbuf::append(&mut burst, &mut more);
        assert_eq!((burst.len(), more.len(), pool.in_use()), (64, 0, 64));
        Mbuf::free_bulk(&mut burst);
        assert_eq!(pool.in_use(), 0);
        let all: Vec<Mbuf> = std::iter::from_fn(|| Mbuf::alloc(&pool)).collect();
        assert_eq!((all.len(), pool.available()), (MBUFS as usize, 0));
        assert_eq!(Mbuf::alloc_from(&pool, b"x").err(), Some(MbufError::PoolEmpty));
        assert!(!Mbuf::alloc_bulk(&pool, &mut burst, 1) && burst.is_empty());
        drop(all);
        assert_eq!((pool.available(), pool.in_use()), (MBUFS, 0));
        let twice = MbufPool::create(&eal, "test", 63, 0, 2176).err().unwrap();
        assert!(twice.to_string().contains("another name"), "{twice}");
        let huge = MbufPool::create(&eal, "huge", 1 << 20, 0, 2176).err().unwrap();
        assert!(huge.to_string().contains("memory_mib"), "{huge}");
    });
}

fn mbuf_outlives_its_pool_safely() {
    in_own_process("mbuf_outlives_its_pool_safely", || {
        let eal = eal();
        let pool = pool(&eal);
        let mut mbuf = Mbuf::alloc_from(&pool, b"still here").unwrap();
        drop((pool, eal));
        assert_eq!(mbuf.frame().bytes(), b"still here");
    });
}

fn null_port_counts_what_passes() {
    in_own_process("null_port_counts_what_passes", || {
        let eal = eal();
        let pool = pool(&eal);
        let config = NicConfig {
            queue_pairs: 2,
            burst_frames: 16,
            rss_key: Some((0..40).collect()),
            ..NicConfig::new("net_null0,size=60")
        };
        let (nic, mut queues) = Nic::open(&config, &pool).unwrap();
        assert_eq!((nic.queues(), queues.len(), nic.driver()), (2, 2, "net_null"));
        assert_eq!((nic.mtu(), nic.frame_bytes_max(), nic.is_physical()), (1500, 1514, false));
        let rss = nic.rss().expect("net_null tells key and table");
        assert_eq!(rss.key, (0..40).collect::<Vec<u8>>());
        assert!(rss.reta.len().is_power_of_two() && rss.reta.iter().all(|&queue| queue < 2));
        let mut frames = MbufVec::new();
        for queue in &mut queues {
            assert_eq!(queue.rx.rx_burst(&mut frames), 16);
        }
        assert_eq!((frames.len(), frames[0].len(), pool.in_use()), (32, 60, 32));
        // A vector with less room than a burst is filled, no more.
        let mut spare = MbufVec::new();
        assert!(Mbuf::alloc_bulk(&pool, &mut spare, 60));
        assert_eq!((queues[0].rx.rx_burst(&mut spare), spare.len()), (4, 64));
        drop(spare);
        assert_eq!((queues[1].tx.tx_burst(&mut frames), frames.len()), (32, 0));
        let stats = nic.stats().unwrap();
        assert_eq!((stats.rx_frames, stats.tx_frames, stats.tx_errors), (36, 32, 0));
        assert!(nic.extended_stats().contains(&("rx_good_packets".to_owned(), 36)));
        drop(queues);
        nic.close().unwrap();
        assert_eq!(pool.in_use(), 0);
    });
}

fn port_closes_only_when_its_queues_are_back() {
    in_own_process("port_closes_only_when_its_queues_are_back", || {
        let eal = eal();
        let pool = pool(&eal);
        let (nic, mut queues) = open("net_null0", 1, &pool);
        assert_eq!(nic.rss(), None, "one queue spreads nothing");
        let refused = nic.close().unwrap_err();
        assert!(refused.to_string().contains("workers still hold"), "{refused}");
        // The port lives on with its queue, and its name is taken.
        assert_eq!(queues[0].rx.rx_burst(&mut MbufVec::new()), 32);
        let taken = refusal(&NicConfig::new("net_null0"), &pool);
        assert!(taken.to_string().contains("File exists"), "{taken}");
        drop(queues);
        let (nic, queues) = open("net_null0", 1, &pool);
        drop(queues);
        nic.close().unwrap();
    });
}

fn ring_port_loops_frames_in_order_and_leaves_what_does_not_fit() {
    in_own_process("ring_port_loops_frames_in_order_and_leaves_what_does_not_fit", || {
        let eal = eal();
        let pool = pool(&eal);
        let (nic, mut queues) = open("net_ring0", 1, &pool);
        let queue = &mut queues[0];
        let mut sent = 0_u16;
        let mut frames = MbufVec::new();
        while frames.is_empty() {
            let first = sent;
            for number in first..first + 32 {
                let bytes = [&[0; 12], &number.to_be_bytes()[..], &[7; 50]].concat();
                frames.push(Mbuf::alloc_from(&pool, &bytes).unwrap());
            }
            let accepted = queue.tx.tx_burst(&mut frames) as u16;
            sent += accepted;
            assert_eq!(frames.len(), 32 - usize::from(accepted));
            assert!(sent < 3000, "the ring fills at 1024 frames");
        }
        assert_eq!(frames[0].bytes()[12..14], sent.to_be_bytes(), "the first unsent one is left");
        frames.clear();
        assert_eq!(pool.in_use(), u32::from(sent));
        let mut got = 0_u16;
        while queue.rx.rx_burst(&mut frames) > 0 {
            for mut frame in frames.drain(..) {
                assert_eq!(frame.frame().bytes()[12..14], got.to_be_bytes());
                assert_eq!(frame.len(), 64);
                got += 1;
            }
        }
        assert_eq!((got, pool.in_use()), (sent, 0));
        drop(queues);
        nic.close().unwrap();
    });
}

fn refused_devices_are_errors_that_say_what_to_do() {
    in_own_process("refused_devices_are_errors_that_say_what_to_do", || {
        let eal = eal();
        let pool = pool(&eal);
        let cases = [
            ("no such device", "PCI address"),
            ("net_nonsense0", "no DPDK driver"),
            ("0000:ff:1f.7", "no PCI device 0000:ff:1f.7"),
            ("net_af_packet0,iface=gyre-absent0", "`gyre-absent0`: No such device"),
            ("net_af_packet0", "refused"),
            ("net_null0,nonsense=1", "refused"),
            ("net_pcap0,rx_pcap=/nonexistent/in.pcap", "refused"),
            ("net_bonding0,mode=1,slave=net_absent0", "configuring it failed"),
        ];
        for (device, words) in cases {
            let error = refusal(&NicConfig::new(device), &pool).to_string();
            assert!(error.contains(words), "{device}: {error}");
        }
        let mtu = |mtu| NicConfig { mtu: Some(mtu), ..NicConfig::new("net_null0") };
        assert!(matches!(refusal(&mtu(9000), &pool), NicError::MbufTooSmall { mtu: 9000, .. }));
        assert!(matches!(refusal(&mtu(60), &pool), NicError::Mtu { mtu_min: 68, .. }));
        let mut config = NicConfig { queue_pairs: 2, ..NicConfig::new("net_null0") };
        config.rss_key = Some(vec![1; 39]);
        assert!(matches!(refusal(&config, &pool), NicError::RssKey { found: 39, .. }));
        // None of it has left anything behind: the same name opens.
        let (nic, queues) = open("net_null0", 1, &pool);
        drop(queues);
        nic.close().unwrap();
        assert_eq!(pool.in_use(), 0);
    });
}

fn bonding_builds_on_its_members_and_takes_them_away() {
    in_own_process("bonding_builds_on_its_members_and_takes_them_away", || {
        let eal = eal();
        let pool = pool(&eal);
        for _ in 0..2 {
            let config = NicConfig {
                members: vec!["net_null0".to_owned(), "net_null1".to_owned()],
                ..NicConfig::new("net_bonding0,mode=0,slave=net_null0,slave=net_null1")
            };
            let (nic, mut queues) = Nic::open(&config, &pool).unwrap();
            let mut frames = MbufVec::new();
            let deadline = Instant::now() + Duration::from_secs(5);
            while queues[0].rx.rx_burst(&mut frames) == 0 {
                assert!(Instant::now() < deadline, "no frame through the bond");
                thread::sleep(Duration::from_millis(1));
            }
            let count = frames.len();
            assert_eq!(queues[0].tx.tx_burst(&mut frames), count);
            drop((frames, queues));
            nic.close().unwrap();
            assert_eq!(pool.in_use(), 0);
        }
    });
}

fn registered_threads_have_a_cache_and_others_have_none() {
    in_own_process("registered_threads_have_a_cache_and_others_have_none", || {
        let eal = eal();
        let pool = pool(&eal);
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!pool.has_cache_here());
                let registered = eal.register_worker_thread().unwrap();
                assert!(pool.has_cache_here());
                assert!(registered.lcore() > 0);
                drop(registered);
                assert!(!pool.has_cache_here());
            });
        });
        let (tell, told) = mpsc::channel();
        let own = pool.clone();
        let core = eal.main_core();
        let work = move || tell.send((own.has_cache_here(), thread_status().remove(0))).unwrap();
        eal.spawn_worker("gyre-test-0", core, work).unwrap().join();
        assert_eq!(told.recv().unwrap(), (true, core.to_string()));
        let refused = eal.spawn_worker("gyre-test-1", 1023, || ()).err().unwrap();
        assert!(refused.to_string().contains("gyre-test-1"), "{refused}");
    });
}

fn clock_keeps_pace_and_never_goes_back() {
    in_own_process("clock_keeps_pace_and_never_goes_back", || {
        let eal = eal();
        let mut clock = TscClock::new(&eal);
        let (from, started) = (clock.now(), Instant::now());
        let mut last = from;
        while started.elapsed() < Duration::from_millis(200) {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        // Read between two readings of the other clock, so that losing the CPU here cannot fail.
        let least = started.elapsed().as_nanos() as u64;
        let passed = clock.now().since(from);
        let most = started.elapsed().as_nanos() as u64 + NANOS_PER_MILLI;
        assert!(passed + NANOS_PER_MILLI >= least && passed <= most + 50 * NANOS_PER_MILLI);
    });
}

fn queues_move_to_workers_and_come_back() {
    in_own_process("queues_move_to_workers_and_come_back", || {
        let eal = eal();
        let pool = pool(&eal);
        let (nic, queues) = open("net_null0", 2, &pool);
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for (index, mut queue) in queues.into_iter().enumerate() {
            let stop = Arc::clone(&stop);
            let work = move || {
                let mut frames = MbufVec::new();
                while !stop.load(Ordering::Relaxed) {
                    queue.rx.rx_burst(&mut frames);
                    queue.tx.tx_burst(&mut frames);
                    Mbuf::free_bulk(&mut frames);
                }
            };
            let name = format!("worker-{index}");
            workers.push(eal.spawn_worker(&name, eal.main_core(), work).unwrap());
        }
        thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|worker| worker.join());
        let stats = nic.stats().unwrap();
        assert!(stats.rx_frames > 0);
        assert_eq!(stats.rx_frames, stats.tx_frames);
        nic.close().unwrap();
        assert_eq!(pool.in_use(), 0, "no mbuf is lost in workers' caches");
    });
}

fn dumpcap_program() -> String {
    env::var("DPDK_DUMPCAP").unwrap_or_else(|_| "dpdk-dumpcap".to_owned())
}

fn hugepages() -> Option<String> {
    let free_mib = FreeHugepages::read(Path::new("/sys")).total_mib();
    (free_mib < u64::from(MEMORY_MIB))
        .then(|| format!("needs {MEMORY_MIB} MiB of free hugepages, there are {free_mib}"))
}

fn hugetlbfs() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    (!mounts.contains(" hugetlbfs ")).then(|| "needs hugetlbfs mounted".into())
}

fn dumpcap() -> Option<String> {
    let absent = Command::new(dumpcap_program()).arg("--version").output().is_err();
    absent.then(|| "needs dpdk-dumpcap (Debian package dpdk-dev)".into())
}

fn main() {
    let mut all = cases!(&[];
        eal_starts_once_and_leaves_affinity_and_signals_alone,
        eal_threads_stay_off_the_other_cores,
        mbufs_are_counted_edited_and_returned,
        bulk_and_exhaustion_are_counted_too,
        mbuf_outlives_its_pool_safely,
        null_port_counts_what_passes,
        port_closes_only_when_its_queues_are_back,
        ring_port_loops_frames_in_order_and_leaves_what_does_not_fit,
        refused_devices_are_errors_that_say_what_to_do,
        bonding_builds_on_its_members_and_takes_them_away,
        registered_threads_have_a_cache_and_others_have_none,
        clock_keeps_pace_and_never_goes_back,
        queues_move_to_workers_and_come_back,
    );
    all.extend(cases!(&[hugepages]; hugepages_are_used_when_there_are_enough));
    all.extend(cases!(&[hugepages, hugetlbfs]; multi_process_workers_run_on_eal_lcores));
    all.extend(
        cases!(&[dumpcap, hugepages, hugetlbfs]; dumpcap_sees_a_multi_process_worker_s_frames),
    );
    harness::run(all)
}
