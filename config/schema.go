package config

// File is the whole server file. A client file is one with only a Client section.
//
// Tags: `yaml` is the key, `default` what an absent key means, `secret` hides the
// value in Show, `inert` marks a key of the stock file that has no effect here.
type File struct {
	Version  Ignored  `yaml:"version,omitempty" inert:"the writer's version stamp"`
	Client   Client   `yaml:"Client"`
	API      API      `yaml:"API,omitempty"`
	GUI      GUI      `yaml:"GUI,omitempty"`
	CA       CA       `yaml:"CA,omitempty"`
	Frontend Frontend `yaml:"Frontend,omitempty"`

	Bus    Bus    `yaml:"Bus,omitempty"`
	Gossip Gossip `yaml:"Gossip,omitempty"`
	Pack   Pack   `yaml:"Pack,omitempty"`
	// Nodes holds partial files by node name, merged over the rest with --node.
	Nodes Ignored `yaml:"Nodes,omitempty"`

	Datastore  Datastore  `yaml:"Datastore,omitempty"`
	Logging    Logging    `yaml:"Logging,omitempty"`
	Monitoring Monitoring `yaml:"Monitoring,omitempty"`
	Defaults   Defaults   `yaml:"defaults,omitempty"`
	Security   Security   `yaml:"security,omitempty"`

	ObfuscationNonce string `yaml:"obfuscation_nonce,omitempty" secret:"true"`

	ExtraFrontends Ignored `yaml:"ExtraFrontends,omitempty"`
	Minion         Ignored `yaml:"Minion,omitempty" inert:"notebook workers are a later feature"`
	Mail           Mail    `yaml:"Mail,omitempty"`
	APIConfig      Ignored `yaml:"api_config,omitempty" inert:"a file of its own: config api-client"`
	AutocertCache  string  `yaml:"autocert_cert_cache,omitempty" inert:"ACME is not offered; use a TLS balancer or tls_certificate_filename"`
	Autoexec       Ignored `yaml:"autoexec,omitempty" inert:"for repacked clients"`
	ServerType     Ignored `yaml:"server_type,omitempty" inert:"informational"`
	AnalysisTarget Ignored `yaml:"analysis_target,omitempty" inert:"not offered"`
	Remappings     Ignored `yaml:"remappings,omitempty" inert:"not offered"`
	Lockdown       bool    `yaml:"lockdown,omitempty" inert:"not offered yet"`
	OrgID          string  `yaml:"org_id,omitempty" inert:"set by the server"`
	OrgName        string  `yaml:"org_name,omitempty" inert:"set by the server"`
	Verbose        bool    `yaml:"verbose,omitempty" inert:"use --log-level"`
	DebugMode      bool    `yaml:"debug_mode,omitempty" inert:"use --log-level"`
	Services       Ignored `yaml:"services,omitempty" inert:"all parts always run"`
}

// Client is what agents are given; the server reads nonce, CA and timings from it.
type Client struct {
	ServerURLs       []string `yaml:"server_urls,omitempty"`
	CACertificate    string   `yaml:"ca_certificate,omitempty"`
	Nonce            string   `yaml:"nonce,omitempty" secret:"true"`
	WritebackLinux   string   `yaml:"writeback_linux,omitempty"`
	WritebackDarwin  string   `yaml:"writeback_darwin,omitempty"`
	WritebackWindows string   `yaml:"writeback_windows,omitempty"`
	Level2Suffix     string   `yaml:"level2_writeback_suffix,omitempty"`
	UseSelfSignedSSL bool     `yaml:"use_self_signed_ssl,omitempty"`
	PinnedServerName string   `yaml:"pinned_server_name,omitempty" default:"VelociraptorServer"`

	MaxPollSeconds            uint64 `yaml:"max_poll,omitempty" default:"60"`
	MaxPollStdSeconds         uint64 `yaml:"max_poll_std,omitempty" default:"30"`
	MinPollSeconds            uint64 `yaml:"min_poll,omitempty" default:"1"`
	WSPingWaitSeconds         uint64 `yaml:"ws_ping_wait_sec,omitempty" default:"60"`
	ConnectionTimeoutSeconds  uint64 `yaml:"connection_timeout,omitempty" default:"300"`
	NannyMaxConnectionSeconds uint64 `yaml:"nanny_max_connection_delay,omitempty"`
	MaxUploadBytes            int64  `yaml:"max_upload_size,omitempty" default:"5242880"`

	LocalBuffer LocalBuffer `yaml:"local_buffer,omitempty"`

	Concurrency              int      `yaml:"concurrency,omitempty" default:"2"`
	FlowStatsUpdateSeconds   uint64   `yaml:"default_server_flow_stats_update,omitempty" default:"5"`
	ClientInfoUpdateSeconds  int64    `yaml:"client_info_update_time,omitempty" default:"86400"`
	DefaultMaxWaitSeconds    uint64   `yaml:"default_max_wait,omitempty" default:"100"`
	DisableCompression       bool     `yaml:"disable_compression,omitempty"`
	Labels                   []string `yaml:"labels,omitempty"`
	Proxy                    string   `yaml:"proxy,omitempty"`
	ProxyConfig              Proxy    `yaml:"proxy_config,omitempty"`
	FallbackAddresses        Strings  `yaml:"fallback_addresses,omitempty"`
	DNSCacheRefreshMinutes   uint64   `yaml:"dns_cache_refresh_min,omitempty" inert:"the system resolver is asked"`
	Crypto                   Crypto   `yaml:"Crypto,omitempty"`
	AdditionalEventArtifacts []string `yaml:"additional_event_artifacts,omitempty" inert:"not offered yet"`
	DisableCheckpoints       bool     `yaml:"disable_checkpoints,omitempty" inert:"flows are journaled"`
	TempdirLinux             string   `yaml:"tempdir_linux,omitempty"`
	TempdirDarwin            string   `yaml:"tempdir_darwin,omitempty"`
	TempdirWindows           string   `yaml:"tempdir_windows,omitempty"`
	MaxMemoryHardLimitBytes  uint64   `yaml:"max_memory_hard_limit,omitempty"`
	PreventExecve            bool     `yaml:"prevent_execve,omitempty"`

	LogfileName       string  `yaml:"logfile_name,omitempty" inert:"logs go to standard error"`
	LogfileSizeBytes  uint64  `yaml:"logfile_size,omitempty" inert:"logs go to standard error"`
	PanicFile         string  `yaml:"panic_file,omitempty" inert:"panics go to standard error"`
	NetworkTraceFile  string  `yaml:"insecure_network_trace_file,omitempty" inert:"not offered"`
	LowResourceMaxCPU Ignored `yaml:"low_resource_max_cpu,omitempty" inert:"limits come with each request"`
	LowResourceCount  Ignored `yaml:"low_resource_cpu_count,omitempty" inert:"limits come with each request"`
	WindowsInstaller  Ignored `yaml:"windows_installer,omitempty" inert:"for repacked clients"`
	DarwinInstaller   Ignored `yaml:"darwin_installer,omitempty" inert:"for repacked clients"`
	Version           Ignored `yaml:"version,omitempty" inert:"the writer's version stamp"`
	ServerVersion     Ignored `yaml:"server_version,omitempty" inert:"the writer's version stamp"`
	Logging           Ignored `yaml:"Logging,omitempty" inert:"logs go to standard error"`
}

// LocalBuffer says where an agent keeps what it could not send yet.
type LocalBuffer struct {
	MemoryBytes     uint64 `yaml:"memory_size,omitempty" default:"52428800"`
	DiskBytes       uint64 `yaml:"disk_size,omitempty"`
	FilenameLinux   string `yaml:"filename_linux,omitempty"`
	FilenameDarwin  string `yaml:"filename_darwin,omitempty"`
	FilenameWindows string `yaml:"filename_windows,omitempty"`
}

// Mail is the server that mail() asks in queries on a server where its arguments name
// none.
type Mail struct {
	From         string `yaml:"from,omitempty"`
	Server       string `yaml:"server,omitempty"`
	ServerPort   int    `yaml:"server_port,omitempty"`
	AuthUsername string `yaml:"auth_username,omitempty"`
	AuthPassword string `yaml:"auth_password,omitempty" secret:"true"`
	SkipVerify   bool   `yaml:"skip_verify,omitempty"`
}

// Proxy says how to reach the outside.
type Proxy struct {
	HTTP              string  `yaml:"http,omitempty"`
	HTTPS             string  `yaml:"https,omitempty"`
	ProxyURLRegexp    Strings `yaml:"proxy_url_regexp,omitempty"`
	PAC               string  `yaml:"pac,omitempty" inert:"PAC files are not offered"`
	IgnoreEnvironment bool    `yaml:"ignore_environment,omitempty"`
}

// Crypto says which TLS servers an agent trusts.
type Crypto struct {
	RootCerts                   string   `yaml:"root_certs,omitempty"`
	CertificateVerificationMode string   `yaml:"certificate_verification_mode,omitempty" default:"PKI"`
	CertificateThumbprints      []string `yaml:"certificate_thumbprints,omitempty"`
	ClientCertificate           string   `yaml:"client_certificate,omitempty"`
	ClientCertificateKey        string   `yaml:"client_certificate_private_key,omitempty" secret:"true"`
	AllowWeakTLSServer          bool     `yaml:"allow_weak_tls_server,omitempty"`
}

// API is the programs' gRPC listener.
type API struct {
	Hostname     string `yaml:"hostname,omitempty" default:"localhost"`
	BindAddress  string `yaml:"bind_address,omitempty" default:"127.0.0.1"`
	BindPort     int    `yaml:"bind_port,omitempty" default:"8001"`
	BindScheme   string `yaml:"bind_scheme,omitempty" default:"tcp"`
	PinnedGWName string `yaml:"pinned_gw_name,omitempty" inert:"the GUI needs no gateway"`
}

// GUI is the operators' listener: browser and JSON.
type GUI struct {
	BindAddress          string   `yaml:"bind_address,omitempty" default:"127.0.0.1"`
	BindPort             int      `yaml:"bind_port,omitempty" default:"8889"`
	BasePath             string   `yaml:"base_path,omitempty"`
	UsePlainHTTP         bool     `yaml:"use_plain_http,omitempty"`
	PublicURL            string   `yaml:"public_url,omitempty"`
	AllowedCIDR          []string `yaml:"allowed_cidr,omitempty"`
	ForwardedProxyHeader string   `yaml:"forwarded_proxy_header,omitempty"`
	TrustedOrigins       []string `yaml:"trusted_origins,omitempty"`
	InitialUsers         Ignored  `yaml:"initial_users,omitempty" inert:"use: users add"`
	InitialOrgs          Ignored  `yaml:"initial_orgs,omitempty" inert:"only the root org works yet"`
	GWCertificate        string   `yaml:"gw_certificate,omitempty" inert:"the GUI needs no gateway"`
	GWPrivateKey         string   `yaml:"gw_private_key,omitempty" secret:"true" inert:"the GUI needs no gateway"`
	Authenticator        Ignored  `yaml:"authenticator,omitempty" inert:"accounts are ours: users add"`
	Links                Ignored  `yaml:"links,omitempty" inert:"not offered yet"`
	ReverseProxy         Ignored  `yaml:"reverse_proxy,omitempty" inert:"not offered"`
	ArtifactSearchFilter string   `yaml:"artifact_search_filter,omitempty" inert:"not offered yet"`
}

// CA signs server, node and API certificates. Its key may be kept offline.
type CA struct {
	PrivateKey string `yaml:"private_key,omitempty" secret:"true"`
}

// Frontend is the client-facing listener and the identity of the message layer.
type Frontend struct {
	Hostname                   string    `yaml:"hostname,omitempty" default:"localhost"`
	BindAddress                string    `yaml:"bind_address,omitempty" default:"0.0.0.0"`
	BindPort                   int       `yaml:"bind_port,omitempty" default:"8000"`
	BasePath                   string    `yaml:"base_path,omitempty"`
	Certificate                string    `yaml:"certificate,omitempty"`
	PrivateKey                 string    `yaml:"private_key,omitempty" secret:"true"`
	TLSCertificateFilename     string    `yaml:"tls_certificate_filename,omitempty"`
	TLSPrivateKeyFilename      string    `yaml:"tls_private_key_filename,omitempty"`
	UsePlainHTTP               bool      `yaml:"use_plain_http,omitempty"`
	RequireClientCertificates  bool      `yaml:"require_client_certificates,omitempty"`
	ProxyHeader                string    `yaml:"proxy_header,omitempty"`
	ProxyProtocol              bool      `yaml:"proxy_protocol,omitempty"`
	DoNotCompressArtifacts     bool      `yaml:"do_not_compress_artifacts,omitempty"`
	DefaultClientMonitoring    []string  `yaml:"default_client_monitoring_artifacts,omitempty"`
	DefaultServerMonitoring    []string  `yaml:"default_server_monitoring_artifacts,omitempty"`
	InitialServerArtifacts     []string  `yaml:"initial_server_artifacts,omitempty" inert:"collect them: raptorpack collect server NAME"`
	CollectionErrorRegex       string    `yaml:"collection_error_regex,omitempty"`
	ArtifactDefinitionsFolder  string    `yaml:"artifact_definitions_directory,omitempty"`
	Resources                  Resources `yaml:"resources,omitempty"`
	DNSName                    string    `yaml:"dns_name,omitempty" inert:"not offered"`
	DynDNS                     Ignored   `yaml:"dyn_dns,omitempty" inert:"not offered"`
	RunAsUser                  string    `yaml:"run_as_user,omitempty" inert:"use the service manager"`
	GRPCPoolMaxSize            int       `yaml:"GRPC_pool_max_size,omitempty" inert:"the bus needs no pool"`
	GRPCPoolMaxWait            int       `yaml:"GRPC_pool_max_wait,omitempty" inert:"the bus needs no pool"`
	Proxy                      string    `yaml:"proxy,omitempty" inert:"the environment's proxy is used"`
	ProxyConfig                Ignored   `yaml:"proxy_config,omitempty" inert:"the environment's proxy is used"`
	ServerServicesDistribution Ignored   `yaml:"server_services,omitempty" inert:"all parts always run"`
}

// Resources bounds what clients may cost a node.
type Resources struct {
	ConnectionsPerSecond      int   `yaml:"connections_per_second,omitempty" default:"100"`
	NotificationsPerSecond    int   `yaml:"notifications_per_second,omitempty" default:"30"`
	EnrollmentsPerSecond      int   `yaml:"enrollments_per_second,omitempty" default:"100"`
	Concurrency               int   `yaml:"concurrency,omitempty"`
	ConcurrencyTimeoutSeconds int   `yaml:"concurrency_timeout,omitempty" default:"600"`
	MaxUploadBytes            int64 `yaml:"max_upload_size,omitempty" default:"104857600"`
	ExpectedClients           int   `yaml:"expected_clients,omitempty" default:"30000"`
	PerClientUploadRate       int64 `yaml:"per_client_upload_rate,omitempty"`
	GlobalUploadRate          int64 `yaml:"global_upload_rate,omitempty"`

	ClientEventMaxWait     Ignored `yaml:"client_event_max_wait,omitempty" inert:"use defaults.event_max_wait"`
	MinionBatchWait        Ignored `yaml:"minion_batch_wait_time_ms,omitempty" inert:"batching is automatic"`
	IndexSnapshotFrequency Ignored `yaml:"index_snapshot_frequency,omitempty" inert:"the index is the ledger's state"`
	ClientInfoLRUTTL       Ignored `yaml:"client_info_lru_ttl,omitempty" inert:"state is not cached"`
	ClientInfoSyncTime     Ignored `yaml:"client_info_sync_time,omitempty" inert:"state is not cached"`
	ClientInfoWriteTime    Ignored `yaml:"client_info_write_time,omitempty" inert:"state is not cached"`
	MaxJournalBufferSize   Ignored `yaml:"max_journal_buffer_size,omitempty" inert:"there is no journal queue"`
	DisableFileBuffering   Ignored `yaml:"disable_file_buffering,omitempty" inert:"acknowledged is durable"`
	DefaultLogBatchTime    Ignored `yaml:"default_log_batch_time,omitempty" inert:"2 s"`
	MonitoringLogBatchTime Ignored `yaml:"default_monitoring_log_batch_time,omitempty" inert:"the agent's own"`
}

// Bus is the node-to-node listener. Without a certificate it is off.
type Bus struct {
	BindAddress string `yaml:"bind_address,omitempty" default:"0.0.0.0"`
	BindPort    int    `yaml:"bind_port,omitempty" default:"8002"`
	Certificate string `yaml:"certificate,omitempty"`
	PrivateKey  string `yaml:"private_key,omitempty" secret:"true"`
}

// Gossip is the membership listener. Without a key it is off.
type Gossip struct {
	BindAddress string   `yaml:"bind_address,omitempty" default:"0.0.0.0"`
	BindPort    int      `yaml:"bind_port,omitempty" default:"7946"`
	Key         string   `yaml:"key,omitempty" secret:"true"`
	Join        []string `yaml:"join,omitempty"` // besides what the filestore names

	// AdvertiseAddress is what other nodes reach this one at; empty: bind_address,
	// or where that is none, the host's own.
	AdvertiseAddress string `yaml:"advertise_address,omitempty"`
}

// Pack tunes what is ours alone.
type Pack struct {
	DrainSeconds int    `yaml:"drain_timeout_sec,omitempty" default:"30"`
	ReserveBytes int64  `yaml:"reserve_bytes,omitempty" default:"67108864"`
	LogFormat    string `yaml:"log_format,omitempty" default:"text"`
}

// Datastore is the shared filestore.
type Datastore struct {
	Implementation     string  `yaml:"implementation,omitempty" inert:"there is one implementation"`
	Location           string  `yaml:"location,omitempty" default:"/var/lib/raptorpack"`
	FilestoreDirectory string  `yaml:"filestore_directory,omitempty"`
	Compression        string  `yaml:"compression,omitempty"`
	MinFreeMB          int64   `yaml:"min_allowed_file_space_mb,omitempty" default:"50"`
	MaxObjectSize      Ignored `yaml:"max_object_size,omitempty" inert:"not needed"`
	MaxDirSize         Ignored `yaml:"max_dir_size,omitempty" inert:"directories are hashed"`
	MemcacheExpiration Ignored `yaml:"memcache_expiration_sec,omitempty" inert:"state is not cached"`
	MemcacheDatastore  Ignored `yaml:"memcache_write_mutation_buffer,omitempty" inert:"state is not cached"`
	MemcacheWriters    Ignored `yaml:"memcache_write_mutation_writers,omitempty" inert:"state is not cached"`
	MemcacheMinAge     Ignored `yaml:"memcache_write_mutation_min_age,omitempty" inert:"state is not cached"`
	MemcacheMaxAge     Ignored `yaml:"memcache_write_mutation_max_age,omitempty" inert:"state is not cached"`
	MemcacheMaxSize    Ignored `yaml:"memcache_datastore_max_size,omitempty" inert:"state is not cached"`
	MemcacheItemSize   Ignored `yaml:"memcache_datastore_max_item_size,omitempty" inert:"state is not cached"`
	MemcacheDirSize    Ignored `yaml:"memcache_datastore_max_dir_size,omitempty" inert:"state is not cached"`
}

// Logging of the stock server writes files; ours writes to standard error.
type Logging struct {
	OutputDirectory          string  `yaml:"output_directory,omitempty" inert:"logs go to standard error"`
	SeparateLogsPerComponent bool    `yaml:"separate_logs_per_component,omitempty" inert:"logs go to standard error"`
	Debug                    Ignored `yaml:"debug,omitempty" inert:"logs go to standard error"`
	Info                     Ignored `yaml:"info,omitempty" inert:"logs go to standard error"`
	Error                    Ignored `yaml:"error,omitempty" inert:"logs go to standard error"`
	RemoteSyslogServer       string  `yaml:"remote_syslog_server,omitempty" inert:"use the service manager"`
	RemoteSyslogProtocol     string  `yaml:"remote_syslog_protocol,omitempty" inert:"use the service manager"`
	RemoteSyslogComponents   Ignored `yaml:"remote_syslog_components,omitempty" inert:"use the service manager"`
}

// Monitoring is the listener of /metrics, /healthz, /readyz and /debug/pprof.
type Monitoring struct {
	BindAddress string `yaml:"bind_address,omitempty" default:"127.0.0.1"`
	BindPort    int    `yaml:"bind_port,omitempty" default:"8003"`
	MetricsURL  string `yaml:"metrics_url,omitempty" inert:"for dashboards of the stock GUI"`
}

// Defaults are limits that requests may override.
type Defaults struct {
	HuntExpiryHours            int64   `yaml:"hunt_expiry_hours,omitempty" default:"168"`
	UnauthenticatedLRUSeconds  int64   `yaml:"unauthenticated_lru_timeout_sec,omitempty" default:"10"`
	EventMaxWaitSeconds        int64   `yaml:"event_max_wait,omitempty" default:"120"`
	EventMaxWaitJitterSeconds  int64   `yaml:"event_max_wait_jitter,omitempty" default:"20"`
	MaxRows                    uint64  `yaml:"max_rows,omitempty"`
	MaxLogs                    uint64  `yaml:"max_logs,omitempty"`
	MaxRowBufferBytes          uint64  `yaml:"max_row_buffer_size,omitempty"`
	MaxBatchWaitSeconds        uint64  `yaml:"max_batch_wait,omitempty"`
	DisableInflightChecks      bool    `yaml:"disable_active_inflight_checks,omitempty"`
	InflightCheckSeconds       int64   `yaml:"inflight_check_time,omitempty" default:"60"`
	EventChangeNotifyAll       Ignored `yaml:"event_change_notify_all_clients,omitempty" inert:"connected clients always learn at once"`
	NotebookCellTimeout        Ignored `yaml:"notebook_cell_timeout_min,omitempty" inert:"notebooks are a later feature"`
	NotebookWorkers            Ignored `yaml:"notebook_number_of_local_workers,omitempty" inert:"notebooks are a later feature"`
	NotebookMemory             Ignored `yaml:"notebook_memory_low_water_mark,omitempty" inert:"notebooks are a later feature"`
	NotebookDefaultNewCellRows Ignored `yaml:"notebook_default_new_cell_rows,omitempty" inert:"notebooks are a later feature"`
}

// Security bounds who may talk to us.
type Security struct {
	CertificateValidityDays int  `yaml:"certificate_validity_days,omitempty" default:"365"`
	AllowAncientClients     bool `yaml:"allow_ancient_clients,omitempty"`
}

// Strings is a map of texts.
type Strings map[string]string
