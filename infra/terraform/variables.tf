variable "region" {
  description = "Region of everything here, such as eu-central-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "Give a region such as eu-central-1."
  }
}

variable "name" {
  description = "Prefix of every name; the bucket's is <name>-<account id>-<region>, or bucket_name."
  type        = string
  default     = "limaml"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "Give 3 to 32 lower-case letters, digits and dashes that begin with a letter."
  }
}

variable "bucket_name" {
  description = "Name of the workspace's bucket; empty: made of name, account and region."
  type        = string
  default     = ""

  validation {
    condition     = var.bucket_name == "" || can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "Give 3 to 63 lower-case letters, digits and dashes (a dot breaks TLS)."
  }
}

variable "workspace_prefix" {
  description = "Folder of the bucket below which the workspace lies."
  type        = string
  default     = "workspace"

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9/_-]*[A-Za-z0-9]$", var.workspace_prefix))
    error_message = "Give a folder without a slash at its ends."
  }
}

variable "exposures_prefix" {
  description = "Folder of the bucket that scorers write exposures to (experiment.exposures.url)."
  type        = string
  default     = "exposures"

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9/_-]*[A-Za-z0-9]$", var.exposures_prefix))
    error_message = "Give a folder without a slash at its ends."
  }
}

variable "old_version_days" {
  description = "How long an overwritten or deleted object can be brought back."
  type        = number
  default     = 30

  validation {
    condition     = var.old_version_days >= 1 && floor(var.old_version_days) == var.old_version_days
    error_message = "Give whole days, at least 1."
  }
}

variable "kms_key_arn" {
  description = "Key of your own for bucket, table and registry; empty: keys that AWS manages."
  type        = string
  default     = ""

  validation {
    condition     = var.kms_key_arn == "" || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_arn))
    error_message = "Give the ARN of a key (arn:aws:kms:…:key/…), not of an alias."
  }
}

variable "table_name" {
  description = "Name of the online store's table; empty: <name>-embeddings."
  type        = string
  default     = ""

  validation {
    condition     = var.table_name == "" || can(regex("^[A-Za-z0-9_.-]{3,255}$", var.table_name))
    error_message = "Give 3 to 255 letters, digits, dots, dashes and underscores."
  }
}

variable "table_backups" {
  description = "Point-in-time recovery of the table. Every generation can be pushed again from the bucket, so it is off."
  type        = bool
  default     = false
}

variable "protect" {
  description = "Refuse to destroy what holds data: a bucket that is not empty, the table, a registry with images."
  type        = bool
  default     = true
}

variable "untagged_image_days" {
  description = "How long the registry keeps an image without a tag."
  type        = number
  default     = 14

  validation {
    condition     = var.untagged_image_days >= 1 && floor(var.untagged_image_days) == var.untagged_image_days
    error_message = "Give whole days, at least 1."
  }
}

variable "oidc_provider_arn" {
  description = "The EKS cluster's OIDC provider, which vouches for its service accounts (IRSA)."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:oidc-provider/.+$", var.oidc_provider_arn))
    error_message = "Give an ARN such as arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/…."
  }
}

variable "pipeline_service_accounts" {
  description = "namespace:name of the service accounts of pipelines' steps (the chart's runs.serviceAccount)."
  type        = list(string)
  default     = ["limaml:limaml-runs"]

  validation {
    condition     = length(var.pipeline_service_accounts) > 0 && alltrue([for each in var.pipeline_service_accounts : can(regex("^[a-z0-9-]+:[a-z0-9.-]+$", each))])
    error_message = "Give namespace:name, without wildcards."
  }
}

variable "scorer_service_accounts" {
  description = "namespace:name of the scorers' service accounts (the chart's scorer.serviceAccount)."
  type        = list(string)
  default     = ["limaml:limaml-scorer"]

  validation {
    condition     = length(var.scorer_service_accounts) > 0 && alltrue([for each in var.scorer_service_accounts : can(regex("^[a-z0-9-]+:[a-z0-9.-]+$", each))])
    error_message = "Give namespace:name, without wildcards."
  }
}

variable "tags" {
  description = "Tags of everything here."
  type        = map(string)
  default     = {}
}
